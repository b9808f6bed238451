import math

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clvq_lens.showing import Shown, told_apart, with_interval

FINITE = st.floats(-1e6, 1e6)


@given(st.lists(FINITE, min_size=1, max_size=4))
def test_different_numbers_look_different_and_only_zero_looks_like_zero(values):
    texts = told_apart(*values)
    assert len(set(texts)) == len(set(values))
    for value, text in zip(values, texts, strict=True):
        assert (float(text) == 0) == (value == 0)
        assert float(text) == pytest.approx(value, rel=0.01)


def test_numbers_are_as_short_as_they_may_be():
    assert told_apart(0.123456, 1234.5, 0.5) == ["0.123", "1234", "0.5"]
    assert told_apart(-0.0, float("nan")) == ["0", ""]


def test_what_has_no_interval_says_so():
    assert with_interval(0.25, math.nan, math.nan) == "0.25 (no interval)"
    assert with_interval(math.nan, math.nan, math.nan) == "nan (no interval)"


class WithATable(Shown):
    def frame(self) -> pd.DataFrame:
        return pd.DataFrame(
            {"code": [3, 1], "name": ["<b>", "\u00e9"], "share": [0.5, float("nan")]}
        )


class WithoutATable(Shown):
    pass


def test_a_result_with_a_table_is_one_for_whatever_reads_arrow():
    table = pa.table(WithATable())
    assert table.to_pylist()[0] == {"code": 3, "name": "<b>", "share": 0.5}
    assert table.column_names == ["code", "name", "share"]  # and no index
    assert pa.table(WithATable()).equals(pa.Table.from_pandas(WithATable().frame()))
    schema = pa.schema({"code": pa.int8(), "name": pa.string(), "share": pa.float32()})
    assert pa.table(WithATable(), schema=schema).schema.types == schema.types


def test_polars_reads_results():
    polars = pytest.importorskip("polars", reason="polars is not installed")
    assert polars.DataFrame(WithATable()).rows()[1][:2] == (1, "\u00e9")


def test_a_result_without_a_table_does_not_look_like_one():
    assert not hasattr(WithoutATable(), "__arrow_c_stream__")


def test_results_of_a_lens_are_tables_for_arrow(fitted, tokens):
    evaluation = fitted.evaluate(tokens, progress=False)
    results = [fitted.encode(tokens), fitted.concepts(tokens, progress=False), evaluation]
    for result in results:
        frame = result.frame()
        table = pa.table(result)
        assert table.num_rows == len(frame) > 0
        assert table.column_names == list(frame.columns)
