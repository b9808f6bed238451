import numpy as np
import pandas as pd

from clvq_lens.plots.inputs import HasFrame, as_frame, numbers, whiskers


def test_a_table_and_a_result_with_a_table_are_both_taken():
    table = pd.DataFrame({"a": [1]})

    class Result:
        def frame(self) -> pd.DataFrame:
            return table

    assert isinstance(Result(), HasFrame)
    assert as_frame(table) is table
    assert as_frame(Result()) is table


def test_what_a_column_does_not_have_is_nan():
    values = numbers(pd.DataFrame({"a": [1, None, 3]}, dtype=object), "a")
    np.testing.assert_array_equal(values, [1.0, np.nan, 3.0])


def test_whiskers_reach_from_the_value_to_both_ends():
    bars = whiskers(np.array([2.0]), np.array([1.5]), np.array([4.0]))
    assert bars["arrayminus"] == [0.5]
    assert bars["array"] == [2.0]
    assert bars["symmetric"] is False
