"""Kendall's W: how far several judges put the same things in the same order."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata

_AT_ONCE = 1_000  # draws, so that memory does not grow with their number
_NULL_INTERVAL = (0.025, 0.975)  # quantiles


@dataclass(frozen=True)
class Concordance:
    """Kendall's W beside what it is where judges have nothing in common.

    Attributes:
        w: Kendall's W, in [0, 1]; NaN if no judge tells any two things apart.
        null_mean: Mean of W over draws in which every judge's scores are shuffled.
        null_low: 2.5 % quantile of these.
        null_high: 97.5 % quantile of these.
        p: Probability of a W at least as large where judges have nothing in common.
    """

    w: float
    null_mean: float
    null_low: float
    null_high: float
    p: float


def kendall_w(scores: Float[np.ndarray, "judges things"]) -> float:
    """Kendall's coefficient of concordance, corrected for ties (Kendall and Babington Smith 1939).

    W = 12 S / (m^2 (n^3 - n) - m T) for m judges and n things, where S is the sum of squared
    deviations of the rank sums from their mean, and T the sum of t^3 - t over the ties of all
    judges, t of one kind. With two judges without ties W = (1 + Spearman's rho) / 2.

    Args:
        scores: One row for each judge; ranks are taken within a row.

    Returns:
        A value in [0, 1]: 1 means one order, 1 / m is expected of unrelated orders. NaN if every
        judge gives the same score to all things.

    Example:
        >>> kendall_w(np.array([[1.0, 2.0, 3.0], [1.0, 3.0, 2.0]]))
        0.75
    """
    ranks = rankdata(scores, axis=1)
    return float(_w_of_rank_sums(ranks.sum(axis=0)[None], ranks)[0])


def concordance(
    scores: Float[np.ndarray, "judges things"], *, n_draws: int, random: np.random.Generator
) -> Concordance:
    """Kendall's W with a permutation null.

    Each draw shuffles the scores of every judge over the things, so that ties stay as they are.

    Args:
        scores: One row for each judge.
        n_draws: How many times all are shuffled; p is never below 1 / (n_draws + 1).
        random: Draws the permutations.
    """
    ranks = rankdata(scores, axis=1)
    w = kendall_w(scores)
    null = np.empty(n_draws)
    for start in range(0, n_draws, _AT_ONCE):
        n_now = min(_AT_ONCE, n_draws - start)
        rank_sums = np.zeros((n_now, ranks.shape[1]))
        for of_judge in ranks:
            rank_sums += random.permuted(np.tile(of_judge, (n_now, 1)), axis=1)
        null[start : start + n_now] = _w_of_rank_sums(rank_sums, ranks)
    low, high = np.quantile(null, _NULL_INTERVAL)
    # The order that was seen is one of those that are possible, so p is never 0. Sums of ranks
    # are halves and exact, but W is not: rounding must not make equal ones differ.
    n_as_large = int((null >= w - 1e-12).sum())
    p = float("nan") if np.isnan(w) else (1 + n_as_large) / (1 + n_draws)
    return Concordance(w, float(null.mean()), float(low), float(high), p)


def _w_of_rank_sums(
    rank_sums: Float[np.ndarray, "draws things"], ranks: Float[np.ndarray, "judges things"]
) -> Float[np.ndarray, " draws"]:
    """W of each row of rank sums; the ranks themselves say how many ties there are."""
    n_judges, n_things = ranks.shape
    ties = 0
    for of_judge in ranks:
        _, sizes = np.unique(of_judge, return_counts=True)
        ties += int((sizes**3 - sizes).sum())
    most = n_judges**2 * (n_things**3 - n_things) - n_judges * ties
    if most == 0:
        return np.full(len(rank_sums), np.nan)
    deviations = rank_sums - rank_sums.mean(axis=1, keepdims=True)
    return 12 * (deviations**2).sum(axis=1) / most
