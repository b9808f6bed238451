"""Counts of positive numbers on a logarithmic axis, in fixed memory."""

import numpy as np
from jaxtyping import Float

_FIRST, _LAST = -20, 20  # decades; numbers beyond are counted in the outermost bins
_PER_DECADE = 400  # so that a median is right to a third of a percent
_SHOWN_PER_DECADE = 20


class LogHistogram:
    """Counts of positive numbers in bins of equal width on a logarithmic axis, in fixed memory.

    Example:
        >>> histogram = LogHistogram()
        >>> histogram.add(np.array([1.0, 2.0, 4.0]))
        >>> round(histogram.median(), 2)
        2.0
    """

    def __init__(self) -> None:
        self.counts = np.zeros((_LAST - _FIRST) * _PER_DECADE, dtype=np.int64)
        """Counts of all bins."""

    def add(self, values: Float[np.ndarray, " n"]) -> None:
        """Counts some numbers; zeros are counted in the lowest bin."""
        # A logarithm of zero would be infinite, and no bin.
        decades = np.log10(np.maximum(np.asarray(values, dtype=np.float64), 10.0**_FIRST))
        bins = np.floor((decades - _FIRST) * _PER_DECADE).astype(np.int64)
        np.add.at(self.counts, np.clip(bins, 0, len(self.counts) - 1), 1)

    def median(self) -> float:
        """The median, right to a third of a percent; NaN without numbers."""
        total = self.counts.sum()
        if total == 0:
            return float("nan")
        # Of an even number of values, the lower one of the two in the middle.
        middle = int(np.searchsorted(self.counts.cumsum(), (total + 1) // 2))
        return float(10.0 ** (_FIRST + (middle + 0.5) / _PER_DECADE))

    def bins(self) -> tuple[tuple[float, ...], tuple[int, ...]]:
        """Edges and counts of wider bins, from the first one in use to the last."""
        wide = self.counts.reshape(-1, _PER_DECADE // _SHOWN_PER_DECADE).sum(1)
        used = np.flatnonzero(wide)
        if len(used) == 0:
            return (), ()
        first, last = int(used[0]), int(used[-1]) + 1
        edges = 10.0 ** (_FIRST + np.arange(first, last + 1) / _SHOWN_PER_DECADE)
        return tuple(edges.tolist()), tuple(wide[first:last].tolist())
