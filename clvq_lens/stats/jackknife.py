"""Intervals over documents in one streaming pass (jackknife of sums)."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from clvq_lens.stats.estimates import Estimate, Measured

Sums = Mapping[str, np.ndarray]
"""Sums by name, whose first axis runs over data sets."""
Statistic = Callable[[Sums], np.ndarray]
"""Takes sums and gives a value for each data set."""
_MOST_GROUPS = 1_000  # their t quantile is that of the normal distribution to three digits
_MOST_INFLUENCES = 50  # divides _MOST_GROUPS; the t quantile is 2.01 where that of 1,000 is 1.96


class DocumentEstimate(Estimate):
    """A number over documents, which can be compared with another one over the same documents.

    Attributes:
        influences: What the number gains when a group of documents is left out, for each of 50
            groups; of less than 50 documents each is a group of its own.
        freedom: Degrees of freedom of an error that these groups give.
    """

    influences: tuple[float, ...]
    freedom: float

    def __new__(
        cls, value: float, low: float, high: float, influences: Sequence[float], freedom: float
    ) -> "DocumentEstimate":
        """A float with an interval, and what it owes to which documents."""
        self = float.__new__(cls, value)
        self.low, self.high = low, high
        self.influences, self.freedom = tuple(influences), freedom
        return self

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        parts = float(self), self.low, self.high, self.influences, self.freedom
        return DocumentEstimate, parts

    def less(self, other: "DocumentEstimate") -> Estimate:
        """This number less another one, with the interval of the difference.

        Documents that are hard are hard for both, so that the interval is that of pairs, and much
        narrower than those of the two numbers.

        Args:
            other: Over the same documents.

        Raises:
            ValueError: If it is over other documents.
        """
        pairs = zip(self.influences, other.influences, strict=True)
        influences = np.array([mine - its for mine, its in pairs])
        freedom = min(self.freedom, other.freedom)
        measured = Measured(float(self) - float(other), _error(influences, 0.0), freedom)
        return measured.estimate()


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

    def register(self, documents: Sequence[int]) -> None:
        """Gives documents their rows, where somebody else adds what they contribute."""
        for document in documents:
            self._row(document)

    @property
    def sums(self) -> dict[str, np.ndarray]:
        """The sums of every row, by name."""
        return self._sums

    def replace_(self, sums: Mapping[str, np.ndarray]) -> None:
        """Puts other sums in the place of these, such as those of all processes together."""
        self._sums = dict(sums)

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
    ) -> DocumentEstimate:
        """A statistic of the sums, with its interval; that of one document is NaN.

        Args:
            statistic: See `Statistic`.
            size: Name of the sum that tells how much a document counts, such as the denominator of
                a ratio. Documents for which it is 0 take no part.
            limits: Least and largest value that the statistic can have.
        """
        counts = self._sums[size] > 0
        value = self.value(statistic)
        left = self._left(statistic, {name: sums[counts] for name, sums in self._sums.items()})
        measured = Measured(value, _error(left, value), _freedom(self._sums[size]))
        interval = measured.estimate(limits=limits)
        groups = self._grouped()
        influences = tuple((self._left(statistic, groups) - value).tolist())
        freedom = _freedom(groups[size])
        return DocumentEstimate(value, interval.low, interval.high, influences, freedom)

    def _left(self, statistic: Statistic, parts: Sums) -> Float[np.ndarray, " n"]:
        """A statistic of the sums without each of some parts."""
        whole = self._whole()
        without = {name: whole[name] - values for name, values in parts.items()}
        with np.errstate(divide="ignore", invalid="ignore"):  # the others may say nothing
            return statistic(without)

    def _grouped(self) -> dict[str, np.ndarray]:
        """The sums of groups of documents, few enough to be kept."""
        n_groups = min(len(self._rows), _MOST_INFLUENCES)
        grouped: dict[str, np.ndarray] = {}
        for name, sums in self._sums.items():
            # Row 0 goes with 50, 100 and so on.
            of_groups = sums.reshape(-1, _MOST_INFLUENCES, *sums.shape[1:]).sum(0)
            grouped[name] = of_groups[:n_groups]
        return grouped

    def _whole(self) -> dict[str, np.ndarray]:
        """The sums over all documents, as one data set."""
        return {name: sums.sum(0, keepdims=True) for name, sums in self._sums.items()}


def _error(left: Float[np.ndarray, " n"], value: float) -> float:
    """The standard error of a statistic; NaN where less than two parts count."""
    if len(left) < 2:
        return math.nan
    with np.errstate(invalid="ignore"):  # not finite without one of them
        return math.sqrt(jackknife_variance(left, value))


def _freedom(sizes: Float[np.ndarray, " n"]) -> float:
    """Degrees of freedom of an error over parts of these sizes; NaN where none has any."""
    return max(effective_number(sizes) - 1, 1.0) if sizes.any() else math.nan


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
