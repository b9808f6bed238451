"""Counts of tuples of integers, in memory that grows with the distinct tuples only."""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

_PENDING = 2**20  # tuples that are collected before they are merged with the counts


class Tally:
    """How often each tuple of integers occurs, such as (code, token).

    Args:
        *shape: Size of each axis; an axis of size n holds the numbers 0 to n - 1.

    Example:
        >>> tally = Tally(2, 3)
        >>> tally.add(np.array([0, 1, 1]), np.array([2, 0, 0]))
        >>> tally.dense().tolist()
        [[0, 0, 1], [2, 0, 0]]
    """

    def __init__(self, *shape: int) -> None:
        self.shape = shape
        self._keys = np.empty(0, dtype=np.int64)
        self._counts = np.empty(0, dtype=np.int64)
        self._pending: list[np.ndarray] = []
        self._n_pending = 0

    def add(self, *index: Int[np.ndarray, " n"]) -> None:
        """Counts tuples, given as one array for each axis."""
        # One number for each tuple, which can be sorted; an axis too large raises here.
        keys = np.ravel_multi_index(index, self.shape)
        self._pending.append(keys)
        self._n_pending += len(keys)
        if self._n_pending >= _PENDING:
            self._merge()

    def entries(self) -> tuple[tuple[np.ndarray, ...], Int[np.ndarray, " m"]]:
        """The distinct tuples, as one array for each axis and in order, and their counts."""
        self._merge()
        return np.unravel_index(self._keys, self.shape), self._counts

    def dense(self) -> np.ndarray:
        """Counts as an array of the given shape."""
        index, counts = self.entries()
        table = np.zeros(self.shape, dtype=np.int64)
        table[index] = counts
        return table

    def state(self) -> dict[str, Tensor]:
        """The counts, for `restore_`."""
        self._merge()
        return {"keys": torch.from_numpy(self._keys), "counts": torch.from_numpy(self._counts)}

    def restore_(self, state: Mapping[str, Tensor]) -> None:
        """Goes on with the counts of another tally of the same shape."""
        self._keys, self._counts = state["keys"].numpy(), state["counts"].numpy()
        self._pending, self._n_pending = [], 0

    def _merge(self) -> None:
        # Sorting and adding up, where a table of all tuples would not fit in memory.
        new, n_new = np.unique(np.concatenate([self._keys[:0], *self._pending]), return_counts=True)
        keys = np.concatenate([self._keys, new])
        counts = np.concatenate([self._counts, n_new])
        order = np.argsort(keys, kind="stable")
        keys, counts = keys[order], counts[order]
        first = np.flatnonzero(np.diff(keys, prepend=-1))
        self._keys = keys[first]
        self._counts = np.add.reduceat(counts, first) if len(first) else counts
        self._pending, self._n_pending = [], 0
