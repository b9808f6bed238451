"""k-means with clusters of equal size."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans

_N_STARTS: Any = 1  # the type that scikit-learn declares is a string
_SWEEPS = 8  # of assignment and means
_AT_ONCE = 512  # rows of a linear sum assignment, whose time grows with the cube
_TINY = 1e-100  # what is asked of a code that no row comes near
_ROUNDS = 30  # of prices in a sweep
_BLUR = 0.1  # of the mean cost of the nearest code: how soft prices see assignments
_LEAST = 1e-3  # of the mean cost of all codes, where rows lie on their codes


def balanced_k_means(
    rows: Float[np.ndarray, "n d"], n_codes: int, *, seed: int
) -> Int[np.ndarray, " n"]:
    """Clusters whose sizes differ by at most one, each row in one that is near.

    Starts from k-means; then means and balanced assignments take turns.

    Args:
        rows: To be clustered.
        n_codes: Number of clusters.
        seed: Of k-means.
    """
    mean = rows.mean(0)
    rows = rows - mean
    centroids = KMeans(n_codes, n_init=_N_STARTS, random_state=seed).fit(rows).cluster_centers_
    prices, codes = np.zeros(n_codes), np.zeros(len(rows), dtype=np.int64)
    for _ in range(_SWEEPS):
        squares = (centroids**2).sum(1) - 2 * rows @ centroids.T
        costs = squares + (rows**2).sum(1, keepdims=True)
        prices = balancing_prices(costs, prices)
        previous, codes = codes, balanced_assignment(costs + prices)
        if np.array_equal(previous, codes):
            break
        sums = np.zeros_like(centroids)
        np.add.at(sums, codes, rows)
        centroids = sums / np.bincount(codes, minlength=n_codes)[:, None]
    return codes


def balanced_assignment(costs: Float[np.ndarray, "n k"]) -> Int[np.ndarray, " n"]:
    """A code for each row so that sizes differ by at most one, at little cost.

    Every row goes to its cheapest code; a code that is too full keeps the rows for which another
    one would cost most more, and the others are spread over what is free at least cost (linear
    sum assignments, of bounded size).
    """
    n, k = costs.shape
    codes = costs.argmin(1)
    two = np.partition(costs, min(1, k - 1), axis=1)
    regret = two[:, min(1, k - 1)] - two[:, 0]
    order = np.lexsort((-regret, codes))  # by code, those that would lose most first
    rank = np.empty(n, dtype=np.int64)
    starts = np.searchsorted(codes[order], np.arange(k))
    rank[order] = np.arange(n) - starts[codes[order]]
    capacity = _capacity(np.bincount(codes, minlength=k), n)
    waiting = np.flatnonzero(rank >= capacity[codes])
    free = capacity - np.bincount(codes, minlength=k).clip(max=capacity)
    slots = np.repeat(np.arange(k), free)
    n_parts = -(-len(waiting) // _AT_ONCE) or 1
    for part in range(n_parts):  # each with slots of all codes, in turn
        left, places = waiting[part::n_parts], slots[part::n_parts]
        chosen, place = linear_sum_assignment(costs[np.ix_(left, places)])
        codes[left[chosen]] = places[place]
    return codes


def _capacity(wanted: Int[np.ndarray, " k"], n: int) -> Int[np.ndarray, " k"]:
    """Sizes that differ by at most one and sum to n, the larger ones where more is wanted."""
    capacity = np.full(len(wanted), n // len(wanted))
    capacity[np.argsort(-wanted, kind="stable")[: n % len(wanted)]] += 1
    return capacity


def balancing_prices(
    costs: Float[np.ndarray, "n k"], prices: Float[np.ndarray, " k"]
) -> Float[np.ndarray, " k"]:
    """What each code has to cost so that all are asked for alike, about (Sinkhorn's iteration)."""
    of_nearest, of_all = float(costs.min(1).mean()), float(costs.mean())
    blur = (
        _BLUR * max(of_nearest, _LEAST * of_all) or 1.0
    )  # rows that are all the same cost nothing
    scores = -(costs + prices) / blur
    kernel = np.exp(scores - scores.max(1, keepdims=True))
    weights, share = np.ones(costs.shape[1]), len(costs) / costs.shape[1]
    for _ in range(_ROUNDS):
        of_rows = 1 / (kernel @ weights)
        weights = share / np.maximum(of_rows @ kernel, _TINY)
    return prices - blur * np.log(weights)
