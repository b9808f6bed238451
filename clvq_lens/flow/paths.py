"""The commonest paths of tokens through several stages, in memory that does not grow."""

import numpy as np
from jaxtyping import Int

_PENDING = 2**18  # paths that wait before they are merged with those counted
N_KEPT = 2**17


class PathTally:
    """How often each path occurs; beyond a given number of paths, only the commonest are kept.

    Where paths have to be dropped, all counts are lowered by that of the commonest dropped one
    (Misra and Gries 1982; for whole batches, Agarwal et al. 2012, Mergeable Summaries). So a count
    is never too high, and too low by at most `error`, which is at most n_tokens / (n_kept + 1).

    Args:
        n_stages: Length of a path.
        n_kept: Paths that are kept.

    Attributes:
        error: By how much a count may be too low, and how often a path may have occurred that is
            not kept; 0 while nothing was dropped.

    Example:
        >>> tally = PathTally(2)
        >>> tally.add(np.array([[0, 1], [2, 1], [0, 1]]))
        >>> paths, counts = tally.commonest()
        >>> paths.tolist(), counts.tolist()
        ([[0, 1], [2, 1]], [2, 1])
    """

    def __init__(self, n_stages: int, n_kept: int = N_KEPT) -> None:
        self.error = 0
        self._n_kept = n_kept
        self._paths = np.empty((0, n_stages), dtype=np.int64)
        self._counts = np.empty(0, dtype=np.int64)
        self._pending: list[np.ndarray] = []
        self._n_pending = 0

    def add(self, paths: Int[np.ndarray, "n stages"]) -> None:
        """Counts paths, one in each row."""
        self._pending.append(paths)
        self._n_pending += len(paths)
        if self._n_pending >= _PENDING:
            self._merge()

    def commonest(self) -> tuple[Int[np.ndarray, "m stages"], Int[np.ndarray, " m"]]:
        """The paths that were kept, the commonest first, and their counts."""
        self._merge()
        # Stable, so that equally common paths stay in order of their nodes.
        order = np.argsort(-self._counts, kind="stable")
        return self._paths[order], self._counts[order]

    def _merge(self) -> None:
        paths = np.concatenate([self._paths, *self._pending])
        counts = np.concatenate([self._counts, np.ones(self._n_pending, dtype=np.int64)])
        self._pending = []
        self._n_pending = 0
        # By the first node, then the second, and so on: `lexsort` takes the last key as the first.
        order = np.lexsort(paths.T[::-1])
        paths = paths[order]
        counts = counts[order]
        differs = np.ones(len(paths), dtype=bool)
        differs[1:] = (paths[1:] != paths[:-1]).any(1)
        first = np.flatnonzero(differs)
        self._paths = paths[first]
        self._counts = np.add.reduceat(counts, first)
        self._drop()

    def _drop(self) -> None:
        n_dropped = len(self._counts) - self._n_kept
        if n_dropped <= 0:
            return
        largest_dropped = int(np.partition(self._counts, n_dropped - 1)[n_dropped - 1])
        # Paths as common as the commonest dropped one go too: their lowered count would be 0.
        stays = self._counts > largest_dropped
        self._paths = self._paths[stays]
        self._counts = self._counts[stays] - largest_dropped
        self.error += largest_dropped
