"""How two partitions of the same tokens agree: formula, range and baseline in each docstring.

A partition gives every token a cluster: a code, a label or another number. Most metrics need only
how many tokens have each pair of clusters, with rows for one partition and columns for the other.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from sklearn.metrics.cluster import expected_mutual_information

from clvq_lens.stats.contingency import contingency
from clvq_lens.stats.metrics import entropy, mutual_information


def adjusted_mutual_information(counts: Int[np.ndarray, "a b"]) -> float:
    """AMI = (I - E[I]) / ((H(A) + H(B)) / 2 - E[I]), with E[I] of shuffled tokens.

    E[I] is the mean mutual information of partitions with clusters of the same sizes and tokens
    dealt to them at random. So many small clusters alone do not raise AMI, as they do NMI.

    Args:
        counts: Tokens with each pair of clusters.

    Returns:
        1 if each partition determines the other, 0 on average for independent ones (the baseline,
        whatever the number of clusters), a little below 0 for less than chance.

    Example:
        >>> adjusted_mutual_information(np.array([[0, 5], [5, 0]]))
        1.0
    """
    counts = _occupied(counts)
    if _determine_each_other(counts):
        return 1.0  # the formula would divide 0 by 0 if there is one cluster, or one a token
    chance = _chance(counts)
    mean_entropy = (entropy(counts.sum(1)) + entropy(counts.sum(0))) / 2
    return (mutual_information(counts) - chance) / (mean_entropy - chance)


def conditional_entropy(counts: Int[np.ndarray, "a b"]) -> float:
    """H(B | A) = H(A, B) - H(A) in nats: the entropy of the columns, given the row.

    Args:
        counts: Tokens with each pair of clusters.

    Returns:
        A value in [0, H(B)]: 0 if A determines B, H(B) if they are independent (the baseline; in a
        sample, `clvq_lens.stats.agreement.shuffled` counts, which lie below).

    Example:
        >>> round(conditional_entropy(np.array([[1, 1], [2, 0]])), 4)  # half of log 2
        0.3466
    """
    return max(0.0, entropy(counts.ravel()) - entropy(counts.sum(1)))


def normalized_conditional_entropy(counts: Int[np.ndarray, "a b"]) -> float:
    """H(B | A) / H(B): the part of the columns' entropy that the rows leave open.

    Args:
        counts: Tokens with each pair of clusters.

    Returns:
        A value in [0, 1]: 0 if A determines B, or B is one cluster; 1 if they are independent (the
        baseline; in a sample, shuffled counts, which lie below).

    Example:
        >>> round(normalized_conditional_entropy(np.array([[1, 1], [1, 1]])), 4)
        1.0
    """
    entropy_of_columns = entropy(counts.sum(0))
    if entropy_of_columns == 0:
        return 0.0
    return conditional_entropy(counts) / entropy_of_columns


def effective_numbers(counts: Int[np.ndarray, "a b"]) -> Float[np.ndarray, " a"]:
    """For each row the effective number of its columns: exp(H(B | A = a)).

    Args:
        counts: Tokens with each pair of clusters.

    Returns:
        Values in [1, columns]: 1 if all tokens of the row are in one column, n if they are spread
        evenly over n; 0 for a row without tokens. Shuffled counts are the baseline; a row of m
        tokens never gets beyond m. The geometric mean over tokens is exp(H(B | A)).

    Example:
        >>> effective_numbers(np.array([[4, 0], [2, 2], [0, 0]])).round(4).tolist()
        [1.0, 2.0, 0.0]
    """
    numbers = np.zeros(len(counts))
    for number, row in enumerate(counts):
        if row.any():
            numbers[number] = np.exp(entropy(row))
    return numbers


def best_matching(counts: Int[np.ndarray, "a b"]) -> Int[np.ndarray, "pairs 2"]:
    """The one-to-one matching of rows with columns that most tokens agree with.

    Solves the assignment problem (Hungarian method); pairs without a token are left out.

    Args:
        counts: Tokens with each pair of clusters.

    Returns:
        Row and column of each pair, in the order of the rows.

    Example:
        >>> best_matching(np.array([[1, 5], [4, 2], [1, 0]])).tolist()
        [[0, 1], [1, 0]]
    """
    rows, columns = linear_sum_assignment(counts, maximize=True)
    # The solver matches every row it can, also where that gains nothing.
    has_tokens = counts[rows, columns] > 0
    return np.stack([rows[has_tokens], columns[has_tokens]], axis=1)


def matched_accuracy(counts: Int[np.ndarray, "a b"]) -> float:
    """Fraction of tokens in pairs of clusters that `best_matching` puts together.

    Args:
        counts: Tokens with each pair of clusters.

    Returns:
        A value in (0, 1]: 1 if the partitions are the same but for the numbers of their clusters.
        One large cluster alone makes it large, so compare with shuffled counts (the baseline).
        Unlike in purity, a cluster that was split in two counts with its larger part only.

    Example:
        >>> matched_accuracy(np.array([[0, 3], [4, 1]]))
        0.875
    """
    pairs = best_matching(counts)
    return float(counts[pairs[:, 0], pairs[:, 1]].sum() / counts.sum())


# ---- token by token, for intervals over documents ------------------------------------------------


@dataclass(frozen=True)
class AgreementTerms:
    """What every token adds to the agreement of two partitions.

    With the shares of clusters, the chance term and the matching held at their values over all
    tokens, AMI and matched accuracy are ratios of sums over tokens. So they have intervals over
    documents, to first order.

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
        """The terms of two partitions of the same tokens.

        Args:
            first: Cluster of each token in the first partition.
            second: Cluster of each token in the second partition.
        """
        rows, a = np.unique(first, return_inverse=True)
        columns, b = np.unique(second, return_inverse=True)
        counts = contingency(a, b, shape=(len(rows), len(columns)))
        n_tokens = len(a)
        log_pair = np.log(counts[a, b] / n_tokens)
        log_a = np.log(counts.sum(1)[a] / n_tokens)
        log_b = np.log(counts.sum(0)[b] / n_tokens)
        match = np.full(len(rows), -1)  # a row without a match agrees with no column
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
            rows: Row of each token, in [0, n_rows).
            n_rows: Number of rows.
        """
        return {
            "mutual": np.bincount(rows, self.mutual, n_rows),
            "entropy": np.bincount(rows, self.entropy, n_rows),
            "matched": np.bincount(rows, self.matched, n_rows),
            "n": np.bincount(rows, minlength=n_rows).astype(float),
        }

    def ami(self, sums: Mapping[str, np.ndarray]) -> np.ndarray:
        """AMI from sums of the terms; `adjusted_mutual_information` if they are over all tokens.

        Args:
            sums: What `sums` gives, added up over rows, such as over documents.
        """
        if self.trivial:
            return np.where(sums["n"] > 0, 1.0, np.nan)
        mutual = sums["mutual"] / sums["n"]
        mean_entropy = sums["entropy"] / sums["n"]
        return (mutual - self.chance) / (mean_entropy - self.chance)

    def ami_of(self, counts: Int[np.ndarray, "a b"]) -> float:
        """AMI of other pairs of clusters of the same sizes, such as shuffled ones.

        Args:
            counts: Tokens with each pair of clusters.
        """
        if self.trivial and _determine_each_other(_occupied(counts)):
            return 1.0
        # The chance term depends on the sizes alone, and is slow to compute.
        largest = float(self.entropy.mean()) - self.chance
        return (mutual_information(counts) - self.chance) / largest


def _occupied(counts: np.ndarray) -> np.ndarray:
    """The counts without empty rows and columns."""
    return counts[counts.any(1)][:, counts.any(0)]


def _chance(counts: np.ndarray) -> float:
    """E[I] in nats; only the sums by row and by column matter."""
    return float(expected_mutual_information(counts, int(counts.sum())))


def _determine_each_other(counts: np.ndarray) -> bool:
    """Whether two partitions are equal but for their numbers; no row or column may be empty."""
    pairs = counts > 0
    return bool((pairs.sum(0) == 1).all() and (pairs.sum(1) == 1).all())
