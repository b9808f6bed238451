"""Means over texts that are alike where they share a document, or a code, or either."""

import math

import numpy as np
from jaxtyping import Float, Int

from clvq_lens.stats.estimates import Measured
from clvq_lens.stats.jackknife import effective_number, jackknife_variance


def clustered_mean(values: Float[np.ndarray, " n"], *clusters: Int[np.ndarray, " n"]) -> Measured:
    """The mean, with the standard error of one or two ways in which values belong together.

    With two ways, such as documents and codes, the variance is V_first + V_second - V_both, where
    "both" are pairs of the two (Cameron, Gelbach and Miller 2011), and never less than that of one
    way alone. Each V is that of the jackknife over clusters (MacKinnon, Nielsen and Webb 2023).
    Degrees of freedom are those of the way with fewer clusters in effect, less one: clusters of
    very different size are worth fewer.

    Args:
        values: The values.
        *clusters: For each way, the cluster of each value: one array or two.

    Returns:
        The mean; its error is NaN if there is a single cluster of one kind.

    Example:
        >>> clustered_mean(np.array([1.0, 3.0]), np.array([0, 1]))
        Measured(value=2.0, error=1.0, freedom=1.0)
    """
    mean = float(values.mean())
    ways = [np.unique(of_values, return_inverse=True)[1] for of_values in clusters]
    sizes = [np.bincount(way).astype(float) for way in ways]
    if min(map(len, sizes)) < 2:
        return Measured(mean, math.nan, math.nan)
    variances = [_variance(values, way) for way in ways]
    if len(ways) == 2:
        _, both = np.unique(np.stack(ways), axis=1, return_inverse=True)
        # The difference may be too small, or below zero, where one way hardly matters.
        variances.append(sum(variances) - _variance(values, both.ravel()))
    fewest = min(effective_number(of_way) for of_way in sizes)
    return Measured(mean, math.sqrt(max(variances)), max(fewest - 1, 1.0))


def _variance(values: Float[np.ndarray, " n"], clusters: Int[np.ndarray, " n"]) -> float:
    """Variance of the mean if whole clusters are drawn."""
    sizes = np.bincount(clusters)
    left = (values.sum() - np.bincount(clusters, values)) / (len(values) - sizes)
    return jackknife_variance(left, float(values.mean()))
