"""Values as JSON holds them: rounded numbers, and tables as columns and rows."""

import math
from collections.abc import Mapping
from typing import SupportsFloat

import pandas as pd

_DIGITS = 5  # significant digits of a number on the page


def rounded(value: object) -> object:
    """A number with as many digits as a page shows; other values as they are.

    NaN and infinity become None, since JSON has neither.

    Args:
        value: A number, or anything else that JSON holds.
    """
    # Whole numbers stay exact: they are counts and codes.
    if isinstance(value, bool | int) or not isinstance(value, SupportsFloat):
        return value
    number = float(value)
    return float(f"{number:.{_DIGITS}g}") if math.isfinite(number) else None


def plain_table(frame: pd.DataFrame) -> dict[str, object]:
    """A table as the names of its columns and its rounded rows.

    Args:
        frame: A table of numbers, texts and short lists.
    """
    rows = []
    # As objects: otherwise pandas would make floats of the integers in a row that has a float.
    for row in frame.astype(object).to_numpy().tolist():
        rows.append([rounded(value) for value in row])
    return {"columns": list(map(str, frame.columns)), "rows": rows}


def with_text_keys(names: Mapping[int, str]) -> dict[str, str]:
    """Names with the numbers of their codes as strings, since keys in JSON are strings.

    Args:
        names: Names of codes, or the texts of token ids.
    """
    texts = {}
    for code, name in names.items():
        texts[str(code)] = name
    return texts
