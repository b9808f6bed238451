"""What figures are drawn from: a table, or a result that gives one."""

from typing import Protocol, runtime_checkable

import pandas as pd


@runtime_checkable
class HasFrame(Protocol):
    """A result with its numbers as a table, such as `Report` or `History`."""

    def frame(self) -> pd.DataFrame:
        """The table."""
        ...


def as_frame(result: pd.DataFrame | HasFrame) -> pd.DataFrame:
    """The table itself, or that of a result.

    Args:
        result: A table, or anything with ``.frame()``.
    """
    return result if isinstance(result, pd.DataFrame) else result.frame()
