"""How results show themselves: one line in a terminal, that line and a small table in Jupyter."""

import math
from html import escape
from typing import Any

import pandas as pd

_MOST_ROWS = 10  # of a table in a notebook: the rest is what .frame() is for
_MOST_DIGITS = 17  # tell any two floats apart


class Shown:
    """A result that says in one line what it is.

    A subclass gives `headline`, and `preview` if it has a table worth seeing at once. One that has
    a ``frame`` is also a table for whatever reads Arrow: ``pyarrow.table(result)``,
    ``polars.DataFrame(result)`` and the like give what ``result.frame()`` gives.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # Not a method of this class: one without a table must not look as if it had one.
        if hasattr(cls, "frame"):
            cls.__arrow_c_stream__ = _arrow_stream

    def headline(self) -> str:
        """What it is, how large, and its main number: one line."""
        raise NotImplementedError

    def preview(self) -> pd.DataFrame | None:
        """The table of which a notebook shows the beginning; None: the line alone."""
        return None

    def __repr__(self) -> str:
        # Text from data may hold line breaks; a repr is one line all the same.
        return f"{type(self).__name__}({' '.join(self.headline().split())})"

    def _repr_html_(self) -> str:
        html = f"<p><b>{type(self).__name__}</b>: {escape(self.headline())}</p>"
        table = self.preview()
        if table is None:
            return html
        html += table.head(_MOST_ROWS).to_html(
            index=False, escape=True, float_format="{:.4g}".format
        )
        if len(table) > _MOST_ROWS:
            html += f"<p>{len(table) - _MOST_ROWS:,} more rows in <code>.frame()</code></p>"
        return html


def _arrow_stream(result: Any, requested_schema: Any = None) -> Any:
    """The table of a result in Arrow's interface for other libraries (PyCapsule)."""
    return result.frame().__arrow_c_stream__(requested_schema)


def told_apart(*values: float, digits: int = 3) -> list[str]:
    """Numbers as text, in so many significant digits that different ones look different.

    So a number never shows as 0, or as the end of its interval, when it is not.

    Args:
        *values: The numbers that stand beside each other; NaN becomes an empty string.
        digits: Significant digits, if they tell the numbers apart.

    Example:
        >>> told_apart(0.000012, 0.000005, 0.0), told_apart(0.70004, 0.70001)
        (['1.2e-05', '5e-06', '0'], ['0.70004', '0.70001'])
    """
    n_different = len({value for value in values if not math.isnan(value)})
    texts: list[str] = []
    for more in range(digits, _MOST_DIGITS + 1):
        texts = ["" if math.isnan(value) else _significant(value, more) for value in values]
        if len(set(texts) - {""}) == n_different:
            break
    return texts


def _significant(value: float, digits: int) -> str:
    text = f"{value + 0.0:.{digits}g}"  # + 0.0 makes 0 of -0
    if "e+" in text and abs(value) < 10**_MOST_DIGITS:
        return f"{value:.0f}"  # 1235, where it would be 1.23e+03
    return text


def with_interval(value: float, low: float, high: float, *, digits: int = 3) -> str:
    """A number with its interval in brackets, in digits that tell the three apart.

    Args:
        value: The number.
        low: Lower end of its interval; NaN if there is none.
        high: Upper end.
        digits: Significant digits, if they are enough.

    Example:
        >>> with_interval(0.25, 0.2, 0.3125), with_interval(0.25, math.nan, math.nan)
        ('0.25 [0.2, 0.312]', '0.25 (no interval)')
    """
    if math.isnan(low) or math.isnan(high):
        [text] = told_apart(value, digits=digits)
        return f"{text or 'nan'} (no interval)"
    number, lower, upper = told_apart(value, low, high, digits=digits)
    return f"{number} [{lower}, {upper}]"


def bytes_in_words(n_bytes: int) -> str:
    """A size as people say it.

    Example:
        >>> bytes_in_words(3 * 2**20)
        '3 MB'
    """
    for unit, size in (("TB", 2**40), ("GB", 2**30), ("MB", 2**20)):
        if n_bytes >= size:
            return f"{n_bytes / size:.3g} {unit}"
    return f"{n_bytes / 2**10:.3g} kB"
