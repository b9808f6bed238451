"""How tokens, or labels, are distributed in each code."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Int

from clvq_lens.concepts.concept import Counted
from clvq_lens.stats.metrics import entropy
from clvq_lens.stats.tally import Tally

_TOP = 10  # items named for each code
# An item that occurs once, or hardly ever, may have a huge lift and says little about its code.
_MIN_COUNT = 2
_MIN_SHARE = 0.01


class Profile:
    """The distribution of some items in each code, beside their distribution in all the data.

    Args:
        tally: Counts of (code, item).
        names: From the numbers of some items to their names.
    """

    def __init__(self, tally: Tally, names: Callable[[Int[np.ndarray, " n"]], list[str]]) -> None:
        (codes, items), counts = tally.entries()
        self._items, self._counts, self._names = items, counts, names
        # Entries are sorted by code, so those of a code are one slice.
        self._starts = np.searchsorted(codes, np.arange(tally.shape[0] + 1))
        self.usage = np.bincount(codes, counts, tally.shape[0]).astype(np.int64)
        self.totals = np.bincount(items, counts).astype(np.int64)

    def commonest(self, code: int) -> tuple[Counted, ...]:
        """The commonest items of a code, the commonest first."""
        _, counts = self._of(code)
        # Stable, so that of equally common items the order is always the same.
        return self._counted(code, np.argsort(-counts, kind="stable")[:_TOP])

    def distinctive(self, code: int) -> tuple[Counted, ...]:
        """The items of the highest lift, among those that a code holds more than once."""
        items, counts = self._of(code)
        enough = np.flatnonzero(counts >= max(_MIN_COUNT, _MIN_SHARE * self.usage[code]))
        # Within a code this differs from the lift by a constant, which does not change the order.
        lifts = counts[enough] / self.totals[items[enough]]
        order = np.lexsort((-counts[enough], -lifts))  # of equal lifts, the commonest first
        return self._counted(code, enough[order[:_TOP]])

    def entropy(self, code: int) -> float:
        """Entropy of the items of a code, in nats."""
        _, counts = self._of(code)
        return entropy(counts)

    def _of(self, code: int) -> tuple[np.ndarray, np.ndarray]:
        """The items of a code and their counts."""
        entries = slice(self._starts[code], self._starts[code + 1])
        return self._items[entries], self._counts[entries]

    def _counted(self, code: int, which: Int[np.ndarray, " n"]) -> tuple[Counted, ...]:
        """Some items of a code, in the order given."""
        items, counts = self._of(code)
        items, counts = items[which], counts[which]
        shares = counts / max(1, self.usage[code])  # a code without tokens has no items to share
        lifts = shares / (self.totals[items] / self.totals.sum())
        names = self._names(items)
        return tuple(map(Counted, names, counts.tolist(), shares.tolist(), lifts.tolist()))
