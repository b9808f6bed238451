"""How long activations are, and which of them are outliers."""

from dataclasses import dataclass
from typing import Literal

import pandas as pd
import plotly.graph_objects as go

from clvq_lens.plots.norm_histograms import plot_norms
from clvq_lens.showing import Shown
from clvq_lens.stats.histogram import LogHistogram


@dataclass(frozen=True, repr=False)
class PointNorms(Shown):
    """Distribution of the norms of real tokens at a hook point, outliers among them.

    Attributes:
        point: "source" or "target".
        median: Median of the norms.
        limit: Norm beyond which a token is an outlier; infinite if none is.
        edges: Edges of the bins, one more than there are bins; equally wide on a logarithmic axis.
        counts: Tokens in each bin.
    """

    point: Literal["source", "target"]
    median: float
    limit: float
    edges: tuple[float, ...]
    counts: tuple[int, ...]

    def headline(self) -> str:
        """The median norm, and where outliers begin."""
        return (
            f"{self.point}, {sum(self.counts):,} tokens, median {self.median:.4g}, "
            f"outliers beyond {self.limit:.4g}"
        )


@dataclass(frozen=True, repr=False)
class Norms(Shown):
    """How long activations are at the source and at the target.

    Attributes:
        source: Norms at the source.
        target: Norms at the target.
    """

    source: PointNorms
    target: PointNorms

    def frame(self) -> pd.DataFrame:
        """One row for each bin: point, its ends, tokens, and median and limit of the point."""
        rows = []
        for norms in (self.source, self.target):
            # Not strict: there is one edge more than there are bins.
            for low, high, count in zip(norms.edges, norms.edges[1:], norms.counts, strict=False):
                rows.append((norms.point, low, high, count, norms.median, norms.limit))
        return pd.DataFrame(rows, columns=["point", "low", "high", "n_tokens", "median", "limit"])

    def headline(self) -> str:
        """The median norm at both points."""
        return (
            f"{sum(self.source.counts):,} tokens, median {self.source.median:.4g} at the source, "
            f"{self.target.median:.4g} at the target"
        )

    def preview(self) -> pd.DataFrame:
        """One row for each point: there are too many bins to look at."""
        rows = []
        for norms in (self.source, self.target):
            rows.append((norms.point, sum(norms.counts), norms.median, norms.limit))
        return pd.DataFrame(rows, columns=["point", "n_tokens", "median", "limit"])

    def plot(self) -> go.Figure:
        """Histograms on logarithmic axes, with the norms beyond which tokens are left out."""
        return plot_norms(self.frame())


def point_norms(
    point: Literal["source", "target"], norms: LogHistogram, limit: float
) -> PointNorms:
    """The distribution at a hook point."""
    edges, counts = norms.bins()
    return PointNorms(point, norms.median(), limit, edges, counts)
