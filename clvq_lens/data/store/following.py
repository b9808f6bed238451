"""Documents as they follow, each with its sequences, and a digest of all of them."""

import hashlib
from collections import deque
from collections.abc import Iterator
from itertools import islice

from clvq_lens.data.document import Document
from clvq_lens.data.tokens import ContextBatcher, TokenSequence

_AT_ONCE = 256  # documents that are tokenized together


class Following:
    """Gives documents one by one; those that are passed over are not tokenized.

    Args:
        documents: The documents.
        batcher: Cuts them to the model's context.
    """

    def __init__(self, documents: Iterator[Document], batcher: ContextBatcher) -> None:
        self._documents, self._batcher = documents, batcher
        self._tokenized: deque[tuple[Document, list[TokenSequence]]] = deque()
        self._digest = hashlib.blake2b(digest_size=16)

    @property
    def digest(self) -> str:
        """Digest of all documents so far."""
        return self._digest.hexdigest()

    def next(self) -> tuple[Document, list[TokenSequence]] | tuple[None, list[TokenSequence]]:
        """The next document and its sequences; None at the end."""
        if not self._tokenized:
            some = list(islice(self._documents, _AT_ONCE))
            self._tokenized.extend(self._batcher.sequences(some))
        if not self._tokenized:
            return None, []
        document, sequences = self._tokenized.popleft()
        self._count(document)
        return document, sequences

    def skip(self, n: int) -> None:
        """Passes over some documents, or as many as there are."""
        while n and self._tokenized:
            self._count(self._tokenized.popleft()[0])
            n -= 1
        for document in islice(self._documents, n):
            self._count(document)

    def _count(self, document: Document) -> None:
        self._digest.update(document.raw)
