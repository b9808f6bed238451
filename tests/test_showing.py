import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clvq_lens.showing import told_apart, with_interval

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
