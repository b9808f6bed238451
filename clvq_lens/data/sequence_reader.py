"""Where a stream of activations comes from: a model that reads documents, epoch by epoch."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Protocol, runtime_checkable

import torch

from clvq_lens.data.activations import Activations, ActivationSource
from clvq_lens.data.document import Item
from clvq_lens.data.document_order import DocumentOrder
from clvq_lens.data.sequence_columns import SequenceColumns
from clvq_lens.data.shuffle_buffer import ALL


@runtime_checkable
class SequenceReader(Protocol):
    """Gives the sequences of a corpus in random order, epoch by epoch."""

    n_read: int
    """Documents read in the current epoch."""

    most_tokens: int | None
    """Real tokens after which an epoch ends; None: it ends with the documents."""

    @property
    def n_documents(self) -> int:
        """Documents of the corpus, once an epoch has been begun."""
        ...

    @property
    def n_tokens(self) -> int | None:
        """Real tokens of the corpus, if that is known before it is read."""
        ...

    def epoch(self, number: int, *, skip: int = 0) -> Iterator[SequenceColumns]:
        """All sequences in the order of an epoch, which is always the same for its number.

        Args:
            number: Number of the epoch.
            skip: Parts at the beginning that are left out.
        """
        ...

    def first(self, n_tokens: int, share: slice = ALL) -> Iterator[Activations]:
        """A fair draw of so many real tokens, always of the same documents; ready for use.

        Args:
            n_tokens: Real tokens after which it ends.
            share: The batches that are wanted.
        """
        ...


class ModelReader:
    """Runs a model on documents.

    Args:
        source: Reads the activations.
        order: The documents.
        special: Whether special tokens are needed, which a decoder of sequences attends to.
        most_tokens: Real tokens after which an epoch ends; None: it ends with the documents.
        generator: Decides the order of batches.
    """

    n_tokens = None

    def __init__(
        self,
        source: ActivationSource,
        order: DocumentOrder,
        *,
        special: bool,
        most_tokens: int | None = None,
        generator: torch.Generator,
    ) -> None:
        self._source, self._order, self.most_tokens = source, order, most_tokens
        self._special, self._generator = special, generator
        self.n_read = 0

    @property
    def n_documents(self) -> int:
        """Documents of the corpus, once an epoch has been begun."""
        return self._order.n_documents

    def epoch(self, number: int, *, skip: int = 0) -> Iterator[SequenceColumns]:
        """All sequences in the order of an epoch; what is skipped is read all the same."""
        self.n_read = 0
        documents = self._counted(self._order.epoch(number))
        batches = self._source.raw_batches(
            documents, n_tokens=self.most_tokens, generator=self._generator
        )
        for batch in islice(batches, skip, None):
            yield SequenceColumns.of(batch, special=self._special)

    def first(self, n_tokens: int, share: slice = ALL) -> Iterator[Activations]:
        """The first documents of epoch 0, until they hold so many real tokens; ready for use."""
        batches = self._source.batches(
            self._order.epoch(0), n_tokens=n_tokens, generator=self._generator
        )
        return islice(batches, share.start, share.stop, share.step)

    def _counted(self, documents: Iterable[Item]) -> Iterator[Item]:
        for document in documents:
            self.n_read += 1
            yield document
