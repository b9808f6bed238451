"""Intervals over documents in one streaming pass (jackknife of sums)."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from clvq_lens.stats.estimates import Estimate, Measured

Sums = Mapping[str, np.ndarray]
"""Sums by name, whose first axis runs over data sets."""
Statistic = Callable[[Sums], np.ndarray]
"""Takes sums and gives a value for each data set."""
_MOST_GROUPS = 1_000  # their t quantile is that of the normal distribution to three digits


class JackknifeSums:
    """Sums over documents, and the same sums without each document in turn.

    The standard error of a statistic of the sums is that of the jackknife, and its interval takes
    the t quantile of as many degrees of freedom as there are documents in effect, less one. Of
    documents of very different length few count: 20 of them may be worth 10. In simulations of
    ratios over documents of heavy-tailed length such intervals hold the truth in 94 to 98 of 100
    cases with 2 to 100 documents (`tests/stats/test_jackknife.py`), where the percentile bootstrap
    has 50 with 2 and 87 with 5.

    Memory does not grow with the data: beyond 1,000 documents, groups of them take the place of
    single ones.
    """

    def __init__(self) -> None:
        self._rows: dict[int, int] = {}
        self._sums: dict[str, np.ndarray] = {}

    def add(self, documents: Sequence[int], values: Mapping[str, np.ndarray]) -> None:
        """Adds what some documents contribute.

        Args:
            documents: Number of the document of each row; a document may come in pieces.
            values: What is summed, by name: arrays of shape [row] or [row, width].
        """
        rows = [self._row(document) for document in documents]
        for name, added in values.items():
            added = np.asarray(added, dtype=np.float64)
            if name not in self._sums:
                self._sums[name] = np.zeros((_MOST_GROUPS, *added.shape[1:]))
            np.add.at(self._sums[name], rows, added)

    def _row(self, document: int) -> int:
        """Where a document is summed: a row of its own, or one that it shares."""
        # Each piece of a document has to find the row of the others. The first documents are known
        # by number; once there are that many, no other is added, so later ones always share.
        if document in self._rows:
            return self._rows[document]
        if len(self._rows) < _MOST_GROUPS:
            self._rows[document] = len(self._rows)
            return self._rows[document]
        return document % _MOST_GROUPS

    def value(self, statistic: Statistic) -> float:
        """A statistic of the sums alone.

        Args:
            statistic: See `Statistic`.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            return float(statistic(self._whole())[0])

    def estimate(
        self,
        statistic: Statistic,
        *,
        size: str,
        limits: tuple[float, float] = (-math.inf, math.inf),
    ) -> Estimate:
        """A statistic of the sums, with its interval; that of one document is NaN.

        Args:
            statistic: See `Statistic`.
            size: Name of the sum that tells how much a document counts, such as the denominator of
                a ratio. Documents for which it is 0 take no part.
            limits: Least and largest value that the statistic can have.
        """
        sizes = self._sums[size]
        counts = sizes > 0
        value = self.value(statistic)
        if counts.sum() < 2:
            return Estimate(value, math.nan, math.nan)
        whole, without = self._whole(), {}
        for name, sums in self._sums.items():
            without[name] = whole[name] - sums[counts]
        with np.errstate(divide="ignore", invalid="ignore"):  # the others may say nothing
            left = statistic(without)
            error = math.sqrt(jackknife_variance(left, value))
        freedom = effective_number(sizes[counts]) - 1
        return Measured(value, error, max(freedom, 1.0)).estimate(limits=limits)

    def _whole(self) -> dict[str, np.ndarray]:
        """The sums over all documents, as one data set."""
        return {name: sums.sum(0, keepdims=True) for name, sums in self._sums.items()}


def jackknife_variance(left: Float[np.ndarray, " n"], value: float) -> float:
    """(n - 1) / n sum (left_i - value)^2: the variance of a statistic of n independent parts.

    About the statistic itself and not about the mean of what is left, which is never less
    (Efron and Stein 1981).

    Args:
        left: The statistic without each part in turn.
        value: The statistic of all parts.

    Returns:
        The variance; NaN if the statistic is not finite without one of them.
    """
    n_parts = len(left)
    return float((n_parts - 1) / n_parts * np.square(left - value).sum())


def effective_number(sizes: Float[np.ndarray, " n"]) -> float:
    """(sum of sizes)^2 / sum of their squares: how many equal parts would vary as much (Kish 1965).

    Args:
        sizes: Sizes of the parts, not all 0.

    Returns:
        A value in [1, n]; n if all are equally large.

    Example:
        >>> effective_number(np.array([2.0, 2.0, 0.0]))
        2.0
    """
    return float(np.square(sizes.sum()) / np.square(sizes).sum())
