"""How tokens, or labels, are distributed in each code."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Int

from clvq_lens.concepts.concept import Counted
from clvq_lens.concepts.tally import Tally
from clvq_lens.evaluation.metrics import entropy

_TOP = 10  # items named of each code
_MIN_COUNT = 2  # of an item that may lead by lift: one that occurs once says little
_MIN_SHARE = 0.01  # of its code, for the same reason


class Profile:
    """The distribution of some items in each code, beside their distribution in all the data.

    Args:
        tally: Counts of (code, item).
        names: The names of some items.
    """

    def __init__(self, tally: Tally, names: Callable[[Int[np.ndarray, " n"]], list[str]]) -> None:
        (codes, self._items), self._counts = tally.entries()
        self._starts = np.searchsorted(codes, np.arange(tally.shape[0] + 1))  # entries are sorted
        self._names = names
        self.usage = np.bincount(codes, self._counts, tally.shape[0]).astype(np.int64)
        self.totals = np.bincount(self._items, self._counts).astype(np.int64)

    def commonest(self, code: int) -> tuple[Counted, ...]:
        """The commonest items of a code, the commonest first."""
        _, counts = self._of(code)
        return self._counted(code, np.argsort(-counts, kind="stable")[:_TOP])

    def distinctive(self, code: int) -> tuple[Counted, ...]:
        """The items of the highest lift, among those that a code holds more than once."""
        items, counts = self._of(code)
        enough = np.flatnonzero(counts >= max(_MIN_COUNT, _MIN_SHARE * self.usage[code]))
        lifts = counts[enough] / self.totals[items[enough]]
        order = np.lexsort((-counts[enough], -lifts))  # of equal lifts, the commonest first
        return self._counted(code, enough[order[:_TOP]])

    def entropy(self, code: int) -> float:
        """Entropy of the items of a code, in nats."""
        return entropy(self._of(code)[1])

    def _of(self, code: int) -> tuple[np.ndarray, np.ndarray]:
        entries = slice(self._starts[code], self._starts[code + 1])
        return self._items[entries], self._counts[entries]

    def _counted(self, code: int, which: Int[np.ndarray, " n"]) -> tuple[Counted, ...]:
        items, counts = (part[which] for part in self._of(code))
        shares = counts / max(1, self.usage[code])
        lifts = shares / (self.totals[items] / self.totals.sum())
        columns = (self._names(items), counts.tolist(), shares.tolist(), lifts.tolist())
        return tuple(Counted(*row) for row in zip(*columns, strict=True))
