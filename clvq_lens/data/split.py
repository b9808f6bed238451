"""Documents split by their content, so that duplicates stay together."""

import itertools
from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, UInt64

from clvq_lens.data.document import Document
from clvq_lens.data.documents import Data, Documents, open_documents
from clvq_lens.errors import EmptyCorpusError

_LOOK_AHEAD = 2_000  # documents from which the held-out threshold is taken


class Split:
    """Which documents are held out.

    A document is held out if its hash lies below a threshold. The threshold comes from the first
    documents, of which at least one is held out and at least one is not; nothing grows with the
    corpus.

    Args:
        documents: The documents to split.
        fraction: Fraction to hold out, between 0 and 1.
    """

    def __init__(self, documents: Documents, fraction: float) -> None:
        self._documents = documents
        ahead = itertools.islice(documents, _LOOK_AHEAD)
        # A set, because copies of a document share a hash: all of them are held out, or none.
        hashes = sorted({document.digest() for document in ahead})
        n_held_out = min(max(1, round(fraction * len(hashes))), len(hashes) - 1)
        # No hash lies below zero, so that nothing is held out.
        self._threshold = hashes[n_held_out] if fraction and n_held_out > 0 else 0

    def is_held_out(self, digests: UInt64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Which documents are kept aside, by their digests."""
        return digests < self._threshold

    def is_trained_on(self, digests: UInt64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Which documents are not."""
        return digests >= self._threshold

    def held_out(self) -> Iterator[Document]:
        """The documents kept aside."""
        for document in self._documents:
            if document.digest() < self._threshold:
                yield document

    def training(self) -> Iterator[Document]:
        """All other documents."""
        for document in self._documents:
            if document.digest() >= self._threshold:
                yield document


def halves(data: Data, *, seed: int) -> list[Data]:
    """Two halves of some documents, split by content, so that duplicates stay together.

    Args:
        data: Documents, as for `clvq_lens.Lens.fit`.
        seed: Random seed for the split.

    Raises:
        EmptyCorpusError: If one half holds no document.
    """
    documents = open_documents(data)
    both = [_HashedHalf(documents, seed, 0), _HashedHalf(documents, seed, 1)]
    for half in both:
        if next(iter(half), None) is None:
            raise EmptyCorpusError(
                "The data are too few to be split: one half holds no document. Pass more "
                "documents, all of them different, or fit all of them with several seeds."
            )
    return list(both)


class _HashedHalf:
    """The documents whose hash is even, or odd; read anew each time."""

    def __init__(self, documents: Documents, seed: int, remainder: int) -> None:
        self._documents, self._remainder = documents, remainder
        self._key = str(seed).encode()

    def __iter__(self) -> Iterator[Document]:
        for document in self._documents:
            if document.digest(key=self._key, n_bytes=1) % 2 == self._remainder:
                yield document
