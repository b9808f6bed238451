"""Documents in random order, in memory that does not grow with the corpus."""

import heapq
import math
from collections.abc import Callable, Iterable, Iterator

from torch import Tensor

from clvq_lens.training.document import Document, Item

_MOST_HELD = 2**24  # characters of the documents in memory
_PER_DOCUMENT = 64  # characters that a document takes besides its own
_PER_TOKEN = 8  # characters that a token of a row takes
_64_BITS = 2**64 - 1


class DocumentOrder:
    """The documents of a corpus in random order, each once, and every epoch anew.

    Every document has a random key. A pass over the corpus finds the documents with the smallest
    keys that fit in memory, and they come in the order of their keys; the next pass finds those
    that follow. So whoever stops early has seen a fair draw, from all places of the corpus.

    Args:
        documents: Called for every pass.
        seed: Decides the order.
        most_held: Characters of the documents that are held in memory.
        most_read: Characters after which the rest of the corpus is left alone; None: none.
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
        self._most_held, self._most_read = most_held, math.inf if most_read is None else most_read
        self.n_documents = 0
        """How many documents there are, once the first pass has been made."""

    def epoch(self, number: int) -> Iterator[Item]:
        """All documents in the order of an epoch, which is always the same for its number.

        Args:
            number: Of the epoch, from 0.
        """
        seed, last = _mixed(self._seed + number), -1
        while True:
            found, complete = self._following(seed, last)
            yield from (document for _, document in found)
            if complete:
                return
            last = found[-1][0]
            del found  # or these would stay in memory beside those that follow

    def _following(self, seed: int, last: int) -> tuple[list[tuple[int, Item]], bool]:
        """The documents with the next larger keys; and whether none is left after them."""
        largest_first: list[tuple[int, Item]] = []
        held, excluded = 0, _64_BITS + 1  # the smallest key that no longer had room
        for key, document in self._keyed(seed):
            if not last < key < excluded:
                continue
            heapq.heappush(largest_first, (-key, document))
            held += _size(document)
            while held > self._most_held and len(largest_first) > 1:
                key, document = heapq.heappop(largest_first)
                held, excluded = held - _size(document), -key
        in_order = sorted((-key, number) for number, (key, _) in enumerate(largest_first))
        found = [(key, largest_first[number][1]) for key, number in in_order]
        return found, excluded > _64_BITS

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
    content = document.content if isinstance(document, Document) else document
    per_part = _PER_TOKEN if isinstance(content, Tensor) else 1
    return _PER_DOCUMENT + per_part * len(content)


def _mixed(number: int) -> int:
    """A number of 64 bits that looks random, another for every number (splitmix64)."""
    z = (number * 0x9E3779B97F4A7C15) & _64_BITS
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _64_BITS
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _64_BITS
    return z ^ (z >> 31)
