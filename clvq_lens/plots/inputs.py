"""What figures are drawn from: a table, or a result that gives one."""

from typing import Protocol, runtime_checkable

import numpy as np
import pandas as pd
from jaxtyping import Float

from clvq_lens.showing import with_interval


@runtime_checkable
class HasFrame(Protocol):
    """A result with its numbers as a table, such as `Evaluation` or `History`."""

    def frame(self) -> pd.DataFrame:
        """The table."""
        ...


def as_frame(result: pd.DataFrame | HasFrame) -> pd.DataFrame:
    """The table of a result, or the table that was passed.

    Args:
        result: A table, or anything with ``.frame()``.
    """
    return result if isinstance(result, pd.DataFrame) else result.frame()


def numbers(frame: pd.DataFrame, column: str) -> Float[np.ndarray, " n"]:
    """A column as floating-point numbers, NaN where it has none.

    Args:
        frame: The table.
        column: Name of the column.
    """
    return np.asarray(frame[column], dtype=float)


def whiskers(
    value: Float[np.ndarray, " n"], low: Float[np.ndarray, " n"], high: Float[np.ndarray, " n"]
) -> dict[str, object]:
    """Error bars from the ends of intervals, which plotly wants as distances.

    Args:
        value: The values.
        low: Lower ends of their intervals.
        high: Upper ends of their intervals.
    """
    return {"symmetric": False, "array": high - value, "arrayminus": value - low}


def intervals_shown(
    value: Float[np.ndarray, " n"], low: Float[np.ndarray, " n"], high: Float[np.ndarray, " n"]
) -> list[str]:
    """Values with their intervals as text, for hovers.

    Args:
        value: The values.
        low: Lower ends of their intervals; NaN where there is none.
        high: Upper ends.
    """
    return [with_interval(*row, digits=4) for row in zip(value, low, high, strict=True)]


def whiskers_of(frame: pd.DataFrame, metric: str) -> dict[str, object] | None:
    """Error bars of a column, from the columns with its intervals; None if it has none."""
    if f"{metric}_low" not in frame:
        return None
    low, high = numbers(frame, f"{metric}_low"), numbers(frame, f"{metric}_high")
    return whiskers(numbers(frame, metric), low, high)
