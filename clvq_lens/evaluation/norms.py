"""How long activations are, and which of them are outliers."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float

_FIRST, _LAST = -20, 20  # decades; what lies beyond is counted in the outermost bins
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
        self._counts = np.zeros((_LAST - _FIRST) * _PER_DECADE, dtype=np.int64)

    def add(self, values: Float[np.ndarray, " n"]) -> None:
        """Counts some numbers; zeros count as the smallest ones."""
        decades = np.log10(np.maximum(np.asarray(values, dtype=np.float64), 10.0**_FIRST))
        bins = np.floor((decades - _FIRST) * _PER_DECADE).astype(np.int64)
        np.add.at(self._counts, np.clip(bins, 0, len(self._counts) - 1), 1)

    def median(self) -> float:
        """The middle of the bin of the median; NaN without numbers."""
        total = self._counts.sum()
        if total == 0:
            return float("nan")
        middle = int(np.searchsorted(self._counts.cumsum(), (total + 1) // 2))
        return float(10.0 ** (_FIRST + (middle + 0.5) / _PER_DECADE))

    def bins(self) -> tuple[tuple[float, ...], tuple[int, ...]]:
        """Edges and counts of wider bins, from the first one in use to the last."""
        wide = self._counts.reshape(-1, _PER_DECADE // _SHOWN_PER_DECADE).sum(1)
        used = np.flatnonzero(wide)
        if len(used) == 0:
            return (), ()
        first, last = int(used[0]), int(used[-1]) + 1
        edges = 10.0 ** (_FIRST + np.arange(first, last + 1) / _SHOWN_PER_DECADE)
        return tuple(edges.tolist()), tuple(wide[first:last].tolist())


@dataclass(frozen=True)
class PointNorms:
    """Distribution of the norms of real tokens at a hook point, outliers among them.

    Attributes:
        point: "source" or "target".
        median: Of the norms.
        limit: Norm beyond which a token is an outlier; infinite if none is.
        edges: Of the bins, one more than there are bins; equally wide on a logarithmic axis.
        counts: Tokens in each bin.
    """

    point: Literal["source", "target"]
    median: float
    limit: float
    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Norms:
    """How long activations are at the source and at the target.

    Attributes:
        source: At the source.
        target: At the target.
    """

    source: PointNorms
    target: PointNorms

    def frame(self) -> pd.DataFrame:
        """One row for each bin: point, its ends, tokens, and median and limit of the point."""
        rows = [
            (part.point, low, high, count, part.median, part.limit)
            for part in (self.source, self.target)
            for low, high, count in zip(part.edges, part.edges[1:], part.counts, strict=False)
        ]
        return pd.DataFrame(rows, columns=["point", "low", "high", "n_tokens", "median", "limit"])

    def plot(self) -> go.Figure:
        """Histograms on logarithmic axes, with the norms beyond which tokens are left out."""
        from clvq_lens.plots.norms import plot_norms

        return plot_norms(self.frame())


def point_norms(
    point: Literal["source", "target"], norms: LogHistogram, limit: float
) -> PointNorms:
    """The distribution at a hook point."""
    return PointNorms(point, norms.median(), limit, *norms.bins())
