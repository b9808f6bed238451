"""Bootstrap over documents in one streaming pass (Poisson bootstrap)."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from clvq_lens.arguments import check_count, check_seed

_LEVEL = 0.95


class BootstrapSums:
    """Sums over documents, and the same sums over resampled documents, in constant memory.

    Each replicate counts each document Poisson(1) times, which for many documents is the ordinary
    bootstrap, and needs no list of documents (Chamandy et al. 2012, "Estimating uncertainty for
    massive data streams"). Row 0 counts every document once: the estimate itself.

    Args:
        n_replicates: Number of resampled data sets.
        seed: Random seed for the resampling.

    Raises:
        ConfigError: If ``n_replicates`` or ``seed`` is out of range.
    """

    def __init__(self, *, n_replicates: int, seed: int) -> None:
        check_count("n_replicates", n_replicates)
        check_seed(seed)
        self._n_replicates, self._seed = n_replicates, seed
        self._sums: dict[str, np.ndarray] = {}
        self._first_document: int | None = None
        self._has_several = False

    def add(self, documents: Sequence[int], values: Mapping[str, np.ndarray]) -> None:
        """Adds what some documents contribute.

        Args:
            documents: Number of the document of each row; a document may come in pieces.
            values: What is summed, by name: arrays of shape [row] or [row, width].
        """
        for document in documents:
            if self._first_document is None:
                self._first_document = document
            self._has_several |= document != self._first_document
        weights = np.stack([self._weights(document) for document in documents], axis=1)
        for name, rows in values.items():
            added = weights @ np.asarray(rows, dtype=np.float64)
            self._sums[name] = self._sums.get(name, 0.0) + added

    def _weights(self, document: int) -> np.ndarray:
        """How often each replicate counts a document."""
        # From the number of the document: its pieces get the same counts, wherever they come.
        random = np.random.Generator(np.random.Philox(key=[self._seed, document]))
        return np.concatenate([[1.0], random.poisson(1.0, self._n_replicates)])

    def estimate(self, statistic: Callable[[Mapping[str, np.ndarray]], np.ndarray]) -> "Estimate":
        """A statistic of the sums, with its interval; the interval of one document is NaN.

        Args:
            statistic: Takes the sums by name, whose first axis runs over replicates, and gives one
                value for each replicate.
        """
        with np.errstate(divide="ignore", invalid="ignore"):  # a replicate may hold no document
            values = statistic(self._sums)
        replicates = values[1:][np.isfinite(values[1:])]
        # Resamples of one document are all alike, and would give an interval of width zero.
        if len(replicates) == 0 or not self._has_several:
            return Estimate(float(values[0]), float("nan"), float("nan"))
        tail = (1 - _LEVEL) / 2
        low, high = np.quantile(replicates, [tail, 1 - tail])
        return Estimate(float(values[0]), float(low), float(high))


class Estimate(float):
    """A number with its 95 % bootstrap interval over documents.

    Attributes:
        low: Lower end of the interval.
        high: Upper end.
    """

    low: float
    high: float

    def __new__(cls, value: float, low: float, high: float) -> "Estimate":
        """A float with an interval."""
        self = super().__new__(cls, value)
        self.low, self.high = low, high
        return self

    def __repr__(self) -> str:
        return f"{float(self):.4g} [{self.low:.4g}, {self.high:.4g}]"

    # A float is copied and pickled by its value alone, which is not enough here.
    def __reduce__(self) -> tuple[type, tuple[float, float, float]]:
        return Estimate, (float(self), self.low, self.high)


def estimates_frame(results: Iterable[object]) -> pd.DataFrame:
    """One row for each result: its attributes, and the ends of the interval of each estimate.

    Args:
        results: Objects such as dataclasses. If their ``fvu`` is an `Estimate`, the table has the
            columns fvu, fvu_low and fvu_high.
    """
    rows: list[dict[str, object]] = []
    for result in results:
        row: dict[str, object] = {}
        for name, value in vars(result).items():
            if isinstance(value, Estimate):
                row[name] = float(value)
                row[f"{name}_low"], row[f"{name}_high"] = value.low, value.high
            else:
                row[name] = value
        rows.append(row)
    return pd.DataFrame(rows)
