"""k-means with clusters of equal size."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans

_N_STARTS: Any = 1  # the type that scikit-learn declares is a string
_SWEEPS = 8  # assignments, each followed by new means
_AT_ONCE = 512  # rows of a linear sum assignment, whose time grows with the cube
_TINY = 1e-100  # demand for a code that no row comes near
_ROUNDS = 30  # changes of the prices in a sweep
_BLUR = 0.1  # share of the mean cost of the nearest code: how soft prices see assignments
_LEAST_COST = 1e-3  # share of the mean cost of all codes, in place of that where rows lie on codes


def balanced_k_means(
    rows: Float[np.ndarray, "n d"], n_codes: int, *, seed: int
) -> Int[np.ndarray, " n"]:
    """Clusters whose sizes differ by at most one, each row in a cluster that is near.

    Starts from k-means; then means and balanced assignments take turns.

    Args:
        rows: The rows to cluster.
        n_codes: Number of clusters.
        seed: Random seed for k-means.
    """
    # Around the mean, or squared distances lose digits as differences of large numbers.
    rows = rows - rows.mean(0)
    centroids = library_k_means(n_codes, seed=seed).fit(rows).cluster_centers_
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


def library_k_means(n_codes: int, *, seed: int) -> KMeans:
    """scikit-learn's k-means from one k-means++ start, not fitted yet.

    Args:
        n_codes: Number of clusters.
        seed: Random seed for the start.
    """
    return KMeans(n_codes, n_init=_N_STARTS, random_state=seed)


def balanced_assignment(costs: Float[np.ndarray, "n k"]) -> Int[np.ndarray, " n"]:
    """A code for each row so that sizes differ by at most one, at little cost.

    Every row goes to its cheapest code. A code that is too full keeps the rows that would lose most
    elsewhere, and the other rows are spread over the free places at least cost (linear sum
    assignments, of bounded size).
    """
    n, k = costs.shape
    codes = costs.argmin(1)
    second = min(1, k - 1)  # with a single code, the second cheapest is that code
    cheapest_first = np.partition(costs, second, axis=1)
    regret = cheapest_first[:, second] - cheapest_first[:, 0]
    order = np.lexsort((-regret, codes))  # by code, those that would lose most first
    rank = np.empty(n, dtype=np.int64)
    starts = np.searchsorted(codes[order], np.arange(k))
    rank[order] = np.arange(n) - starts[codes[order]]
    capacity = _capacity(np.bincount(codes, minlength=k), n)
    waiting = np.flatnonzero(rank >= capacity[codes])
    free = capacity - np.bincount(codes, minlength=k).clip(max=capacity)
    slots = np.repeat(np.arange(k), free)
    n_parts = -(-len(waiting) // _AT_ONCE) or 1
    for part in range(n_parts):
        # Every so many, and not one after the other: each part has slots of all codes.
        rows, free_codes = waiting[part::n_parts], slots[part::n_parts]
        chosen, slot = linear_sum_assignment(costs[np.ix_(rows, free_codes)])
        codes[rows[chosen]] = free_codes[slot]
    return codes


def _capacity(wanted: Int[np.ndarray, " k"], n: int) -> Int[np.ndarray, " k"]:
    """Sizes that differ by at most one and sum to n; codes that are wanted most are larger."""
    capacity = np.full(len(wanted), n // len(wanted))
    capacity[np.argsort(-wanted, kind="stable")[: n % len(wanted)]] += 1
    return capacity


def balancing_prices(
    costs: Float[np.ndarray, "n k"], prices: Float[np.ndarray, " k"]
) -> Float[np.ndarray, " k"]:
    """Prices at which all codes are in equal demand, about (Sinkhorn's iteration)."""
    mean_nearest, mean_of_all = float(costs.min(1).mean()), float(costs.mean())
    # Where all rows are the same, nothing costs anything, and any blur will do.
    blur = _BLUR * max(mean_nearest, _LEAST_COST * mean_of_all) or 1.0
    scores = -(costs + prices) / blur
    kernel = np.exp(scores - scores.max(1, keepdims=True))
    weights = np.ones(costs.shape[1])
    rows_per_code = len(costs) / costs.shape[1]
    for _ in range(_ROUNDS):
        row_weights = 1 / (kernel @ weights)
        weights = rows_per_code / np.maximum(row_weights @ kernel, _TINY)
    return prices - blur * np.log(weights)
