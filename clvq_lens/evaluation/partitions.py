"""How two partitions of the same tokens agree: formula, range and baseline in each docstring.

A partition is a number for every token: codes, clusters, labels. Most metrics need only how many
tokens have each pair of numbers, with rows for the one partition and columns for the other.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from sklearn.metrics.cluster import expected_mutual_information

from clvq_lens.errors import ShapeError
from clvq_lens.evaluation.metrics import entropy, mutual_information


def contingency(
    first: Int[np.ndarray, " n"], second: Int[np.ndarray, " m"], n_first: int, n_second: int
) -> Int[np.ndarray, "a b"]:
    """How many tokens have each pair of numbers.

    Args:
        first: Of each token, in [0, n_first): the rows.
        second: In [0, n_second): the columns.
        n_first: Number of rows.
        n_second: Number of columns.

    Raises:
        ShapeError: If the two do not number the same tokens, or there is none.

    Example:
        >>> contingency(np.array([0, 0, 1]), np.array([1, 1, 0]), 2, 2).tolist()
        [[0, 2], [1, 0]]
    """
    if len(first) != len(second) or len(first) == 0:
        raise ShapeError(
            f"The partitions number {len(first)} and {len(second)} tokens. Pass one number of "
            f"each for every token, and at least one token."
        )
    pairs = np.bincount(first.astype(np.int64) * n_second + second, minlength=n_first * n_second)
    return pairs.reshape(n_first, n_second)


def adjusted_mutual_information(counts: Int[np.ndarray, "a b"]) -> float:
    """AMI = (I - E[I]) / ((H(A) + H(B)) / 2 - E[I]), with E[I] of shuffled tokens.

    E[I] is the mean mutual information of partitions with the same sizes of clusters, tokens dealt
    to them at random, so that many small clusters earn nothing by themselves, as they do in NMI.

    Args:
        counts: Of pairs.

    Returns:
        1 if each partition determines the other, 0 on average for independent ones (the baseline,
        whatever the number of clusters), a little below 0 for less than chance.

    Example:
        >>> adjusted_mutual_information(np.array([[0, 5], [5, 0]]))
        1.0
    """
    counts = _occupied(counts)
    if _determine_each_other(counts):
        return 1.0
    chance = _chance(counts)
    mean_entropy = (entropy(counts.sum(1)) + entropy(counts.sum(0))) / 2
    return (mutual_information(counts) - chance) / (mean_entropy - chance)


def conditional_entropy(counts: Int[np.ndarray, "a b"]) -> float:
    """H(B | A) = H(A, B) - H(A) in nats: what is left to say of the columns, given the row.

    Args:
        counts: Of pairs.

    Returns:
        A value in [0, H(B)]: 0 if A determines B, H(B) if they are independent (the baseline; in a
        sample, `clvq_lens.evaluation.agreement.shuffled` counts, which lie below).

    Example:
        >>> round(conditional_entropy(np.array([[1, 1], [2, 0]])), 4)  # half of log 2
        0.3466
    """
    return max(0.0, entropy(counts.ravel()) - entropy(counts.sum(1)))


def normalized_conditional_entropy(counts: Int[np.ndarray, "a b"]) -> float:
    """H(B | A) / H(B): the part of the columns' entropy that the rows leave open.

    Returns:
        A value in [0, 1]: 0 if A determines B, or B is one cluster; 1 if they are independent (the
        baseline; in a sample, shuffled counts, which lie below).

    Example:
        >>> round(normalized_conditional_entropy(np.array([[1, 1], [1, 1]])), 4)
        1.0
    """
    whole = entropy(counts.sum(0))
    return 0.0 if whole == 0 else conditional_entropy(counts) / whole


def effective_numbers(counts: Int[np.ndarray, "a b"]) -> Float[np.ndarray, " a"]:
    """For each row the effective number of its columns: exp(H(B | A = a)).

    Returns:
        Values in [1, columns]: 1 if all tokens of the row are in one column, n if they are spread
        evenly over n; 0 for a row without tokens. The baseline is that of shuffled counts; a row
        of m tokens never gets beyond m. Their geometric mean over tokens is exp(H(B | A)).

    Example:
        >>> effective_numbers(np.array([[4, 0], [2, 2], [0, 0]])).round(4).tolist()
        [1.0, 2.0, 0.0]
    """
    return np.array([np.exp(entropy(row)) if row.any() else 0.0 for row in counts])


def best_matching(counts: Int[np.ndarray, "a b"]) -> Int[np.ndarray, "pairs 2"]:
    """The one-to-one matching of rows with columns that most tokens agree with.

    Solves the assignment problem (Hungarian method); pairs without a token are left out.

    Example:
        >>> best_matching(np.array([[1, 5], [4, 2], [1, 0]])).tolist()
        [[0, 1], [1, 0]]
    """
    rows, columns = linear_sum_assignment(counts, maximize=True)
    held = counts[rows, columns] > 0
    return np.stack([rows[held], columns[held]], axis=1)


def matched_accuracy(counts: Int[np.ndarray, "a b"]) -> float:
    """Fraction of tokens in pairs of clusters that `best_matching` puts together.

    Returns:
        A value in (0, 1]: 1 if the partitions are the same but for their numbers. One large
        cluster alone makes it large, so compare with shuffled counts (the baseline). Unlike
        purity, a cluster that was split in two counts with its larger part only.

    Example:
        >>> matched_accuracy(np.array([[0, 3], [4, 1]]))
        0.875
    """
    pairs = best_matching(counts)
    return float(counts[pairs[:, 0], pairs[:, 1]].sum() / counts.sum())


# ---- token by token, to resample documents -------------------------------------------------------


@dataclass(frozen=True)
class AgreementTerms:
    """What every token adds to the agreement of two partitions.

    With the shares of clusters, the chance term and the matching held at their values over all
    tokens, AMI and matched accuracy are ratios of sums over tokens. So they can be resampled by
    document to first order, without the upward bias of a mutual information among tokens that were
    drawn twice.

    Attributes:
        mutual: log p(a, b) / (p(a) p(b)), in nats.
        entropy: -(log p(a) + log p(b)) / 2, in nats.
        matched: 1 where the clusters are matched, else 0.
        chance: E[I] of shuffled tokens, in nats.
        trivial: Whether each partition determines the other, so that AMI is 1.
    """

    mutual: Float[np.ndarray, " n"]
    entropy: Float[np.ndarray, " n"]
    matched: Float[np.ndarray, " n"]
    chance: float
    trivial: bool

    @classmethod
    def of(cls, first: Int[np.ndarray, " n"], second: Int[np.ndarray, " n"]) -> "AgreementTerms":
        """The terms of two partitions of the same tokens."""
        rows, a = np.unique(first, return_inverse=True)
        columns, b = np.unique(second, return_inverse=True)
        counts = contingency(a, b, len(rows), len(columns))
        log_pair, log_a, log_b = (
            np.log(n / len(a)) for n in (counts[a, b], counts.sum(1)[a], counts.sum(0)[b])
        )
        match = np.full(len(rows), -1)
        pairs = best_matching(counts)
        match[pairs[:, 0]] = pairs[:, 1]
        return cls(
            mutual=log_pair - log_a - log_b,
            entropy=-(log_a + log_b) / 2,
            matched=(match[a] == b).astype(float),
            chance=_chance(counts),
            trivial=_determine_each_other(counts),
        )

    def sums(self, rows: Int[np.ndarray, " n"], n_rows: int) -> dict[str, np.ndarray]:
        """Sums of the terms by row, such as by document.

        Args:
            rows: Of each token, in [0, n_rows).
            n_rows: How many.
        """
        parts = {"mutual": self.mutual, "entropy": self.entropy, "matched": self.matched}
        sums = {name: np.bincount(rows, part, n_rows) for name, part in parts.items()}
        return {**sums, "n": np.bincount(rows, minlength=n_rows).astype(float)}

    def ami(self, sums: Mapping[str, np.ndarray]) -> np.ndarray:
        """AMI of such sums, as `adjusted_mutual_information` gives it of all tokens."""
        if self.trivial:
            return np.where(sums["n"] > 0, 1.0, np.nan)
        mutual, mean_entropy = (sums[name] / sums["n"] for name in ("mutual", "entropy"))
        return (mutual - self.chance) / (mean_entropy - self.chance)

    def ami_of(self, counts: Int[np.ndarray, "a b"]) -> float:
        """AMI of other pairs of clusters of the same sizes, such as shuffled ones: same chance."""
        if self.trivial and _determine_each_other(_occupied(counts)):
            return 1.0
        whole = float(self.entropy.mean()) - self.chance
        return (mutual_information(counts) - self.chance) / whole


def _occupied(counts: np.ndarray) -> np.ndarray:
    return counts[counts.any(1)][:, counts.any(0)]


def _chance(counts: np.ndarray) -> float:
    """E[I] in nats; only the sums by row and by column matter."""
    return float(expected_mutual_information(counts, int(counts.sum())))


def _determine_each_other(counts: np.ndarray) -> bool:
    """Whether they are the same partition but for the numbers; counts without empty lines."""
    pairs = counts > 0
    return bool((pairs.sum(0) == 1).all() and (pairs.sum(1) == 1).all())
