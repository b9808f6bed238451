"""Documents in random order, in memory that does not grow with the corpus."""

import heapq
import math
from collections.abc import Callable, Iterable, Iterator
from operator import itemgetter

from torch import Tensor

from clvq_lens.data.document import Document, Item

READ_PER_TOKEN = 200
"""Characters to read for a token that is wanted, about fifty times as many as it has."""

_MOST_HELD = 2**24  # characters of the documents in memory
_PER_DOCUMENT = 64  # characters that a document takes besides its own
_PER_TOKEN = 8  # characters that a token of a row takes
_64_BITS = 2**64 - 1


class DocumentOrder:
    """The documents of a corpus in random order, each once, and every epoch anew.

    Every document has a random key. A pass over the corpus finds the documents with the smallest
    keys that fit in memory, and they come in the order of their keys; the next pass finds those
    that follow. So a caller that stops early has seen a fair draw, from all places of the corpus.

    Args:
        documents: Called for every pass.
        seed: Random seed for the order.
        most_held: Characters of the documents that are held in memory.
        most_read: Characters after which the rest of the corpus is left alone; None: all is read.
    """

    def __init__(
        self,
        documents: Callable[[], Iterable[Item]],
        *,
        seed: int,
        most_held: int = _MOST_HELD,
        most_read: int | None = None,
    ) -> None:
        self._documents, self._seed = documents, seed
        self._most_held = most_held
        self._most_read = math.inf if most_read is None else most_read
        self.n_documents = 0
        """How many documents there are, once the first pass has been made."""

    def epoch(self, number: int) -> Iterator[Item]:
        """All documents in the order of an epoch, which is always the same for its number.

        Args:
            number: Number of the epoch, from 0.
        """
        seed, last_key = _mixed(self._seed + number), -1
        while True:
            following, all_fit = self._following(seed, last_key)
            yield from (document for _, document in following)
            if all_fit:
                return
            last_key = following[-1][0]
            del following  # or these would stay in memory beside those of the next pass

    def _following(self, seed: int, last_key: int) -> tuple[list[tuple[int, Item]], bool]:
        """The documents with the next larger keys, by key; and whether all that are left fit."""
        heap: list[tuple[int, Item]] = []  # negative keys, so that the largest key is on top
        held, smallest_excluded = 0, _64_BITS + 1
        for key, document in self._keyed(seed):
            if not last_key < key < smallest_excluded:
                continue
            heapq.heappush(heap, (-key, document))
            held += _size(document)
            while held > self._most_held and len(heap) > 1:
                negative_key, dropped = heapq.heappop(heap)
                held -= _size(dropped)
                smallest_excluded = -negative_key
        following: list[tuple[int, Item]] = []
        # By the key alone: documents, such as tensors, cannot be compared.
        for negative_key, document in sorted(heap, key=itemgetter(0), reverse=True):
            following.append((-negative_key, document))
        return following, smallest_excluded > _64_BITS

    def _keyed(self, seed: int) -> Iterator[tuple[int, Item]]:
        """The documents in the order of the corpus, with their keys, no two of which are equal."""
        read, number = 0, 0
        for number, document in enumerate(self._documents(), start=1):
            yield _mixed(seed + number), document
            read += _size(document)
            if read >= self._most_read:
                break
        self.n_documents = number


def _size(document: Item) -> int:
    """Characters that a document takes in memory, about."""
    content = document.content if isinstance(document, Document) else document
    per_part = _PER_TOKEN if isinstance(content, Tensor) else 1
    return _PER_DOCUMENT + per_part * len(content)


def _mixed(number: int) -> int:
    """A number of 64 bits that looks random, another for every number (splitmix64)."""
    # A bijection of 64 bits: different numbers never get the same key.
    z = (number * 0x9E3779B97F4A7C15) & _64_BITS
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _64_BITS
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _64_BITS
    return z ^ (z >> 31)
