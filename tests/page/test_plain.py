"""Values of a page as JSON holds them."""

import numpy as np
import pandas as pd
import pytest

from clvq_lens.page.plain import plain_table, rounded, with_text_keys


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1234567, 1234567),  # a count stays exact
        (np.float32(0.1), 0.1),
        (1234567.0, 1234600.0),
        (float("nan"), None),
        (float("-inf"), None),
        (True, True),
        ("0.123456789", "0.123456789"),
        ([3, " the"], [3, " the"]),
        (None, None),
    ],
)
def test_numbers_have_as_many_digits_as_are_shown(value, shown):
    assert rounded(value) == shown
    assert isinstance(rounded(value), type(shown))


def test_counts_stay_whole_in_a_table_that_has_fractions():
    table = plain_table(pd.DataFrame({"count": [1234567, 2], "share": [1 / 3, np.nan]}))
    assert table == {"columns": ["count", "share"], "rows": [[1234567, 0.33333], [2, None]]}
    assert isinstance(table["rows"][0][0], int)


def test_keys_of_names_are_strings():
    assert with_text_keys({17: "animals", 3: ""}) == {"17": "animals", "3": ""}
