"""Activations that were read before: what a store on disk and vectors from elsewhere share."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int
from torch import Tensor

from clvq_lens.data.document import Corpus, Document, Part
from clvq_lens.data.sequence_columns import SequenceColumns
from clvq_lens.errors import HookNotFoundError
from clvq_lens.host.host import Host
from clvq_lens.showing import Shown


@runtime_checkable
class SequenceShard(Protocol):
    """A table of sequences, and their activations."""

    @property
    def lengths(self) -> Int[Tensor, " s"]:
        """Positions of each sequence."""
        ...

    @property
    def starts(self) -> Int[Tensor, " s"]:
        """Where each sequence begins."""
        ...

    @property
    def documents(self) -> Int[Tensor, " s"]:
        """Number of the document of each sequence."""
        ...

    @property
    def digests(self) -> Int[Tensor, " s"]:
        """Digest of the document of each sequence, as a number with a sign."""
        ...

    @property
    def n_real(self) -> Int[Tensor, " s"]:
        """Real tokens of each sequence."""
        ...

    @property
    def tokens(self) -> Int[Tensor, " n"]:
        """Token ids of all sequences, one sequence after the other."""
        ...

    @property
    def mask(self) -> Bool[Tensor, " n"]:
        """True on real tokens."""
        ...

    def activations(self, point: str) -> Float[Tensor, "n d"]:
        """The activations of all sequences at a hook point."""
        ...

    def part(self, sequence: int) -> Part:
        """How much of its document a sequence is."""
        ...


class StoredActivations(Shown):
    """Documents with their activations at some hook points; takes the place of data everywhere."""

    corpus: Corpus

    @property
    @abstractmethod
    def place(self) -> str:
        """Where they are, in words for messages."""

    @property
    @abstractmethod
    def points(self) -> tuple[str, ...]:
        """Names of the hook points."""

    @property
    @abstractmethod
    def n_documents(self) -> int:
        """Number of documents."""

    @property
    @abstractmethod
    def shards(self) -> Sequence[SequenceShard]:
        """The sequences, in parts that fit in memory."""

    @property
    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What has to be the same for a fit to go on: the model, and the documents."""

    @property
    @abstractmethod
    def digest(self) -> str:
        """A digest of all activations."""

    @abstractmethod
    def require_model(self, host: Host) -> None:
        """Raises `HostMismatchError` unless the activations are those of a model."""

    def require(self, host: Host, points: Sequence[str]) -> None:
        """Raises unless these are the activations of a model at some of its hook points.

        Args:
            host: The model.
            points: Names of hook points on it.

        Raises:
            HostMismatchError: If they are those of another model.
            HookNotFoundError: If there are none at one of the points.
        """
        self.require_model(host)
        for point in points:
            self.require_point(host.protocol.portable(point))

    def require_sequences(self) -> None:
        """Raises `ConfigError` if it is not known where sequences begin and end."""

    def __iter__(self) -> Iterator[Document]:
        for number in range(len(self.shards)):
            yield from self._documents_of(number)

    def _documents_of(self, number: int) -> Iterator[Document]:
        shard = self.shards[number]
        numbers = shard.documents.tolist()
        starts = [*shard.starts.tolist(), len(shard.tokens)]
        first = 0
        for last in range(1, len(numbers) + 1):
            if last < len(numbers) and numbers[last] == numbers[first]:
                continue
            ids = shard.tokens[starts[first] : starts[last]]
            stored = StoredDocument(self, number, first, last)
            yield Document(ids, numbers[first], is_padded=False, corpus=self.corpus, stored=stored)
            first = last

    def require_point(self, point: str) -> str:
        """The hook point itself.

        Raises:
            HookNotFoundError: If there are no activations at it.
        """
        if point not in self.points:
            raise HookNotFoundError(
                f"{self.place} has no activations at {point!r}, only at {', '.join(self.points)}. "
                f"Attach to these, or cache that one too, in another folder."
            )
        return point

    def sequences(self, number: int, source: str, target: str) -> SequenceColumns:
        """The sequences of a shard, in its own memory."""
        shard = self.shards[number]
        return SequenceColumns(
            source=shard.activations(self.require_point(source)),
            target=shard.activations(self.require_point(target)),
            tokens=shard.tokens,
            mask=shard.mask,
            starts=shard.starts,
            lengths=shard.lengths,
            documents=shard.documents,
            on_disk=True,
        )


@dataclass(frozen=True)
class StoredDocument:
    """A document in a store.

    Attributes:
        store: The store.
        shard: Number of its shard.
        first: Number of its first sequence in the shard.
        last: Number of the sequence after its last.
    """

    store: StoredActivations
    shard: int
    first: int
    last: int

    @property
    def fingerprint(self) -> int:
        """The digest of the document that the model read."""
        # Digests have 64 bits and no sign, and torch has integers of 64 bits with one.
        return int(self.store.shards[self.shard].digests[self.first]) % 2**64

    def pieces(self) -> Iterable[tuple[Int[Tensor, " n"], Part]]:
        """Its sequences, as the model read them."""
        shard = self.store.shards[self.shard]
        for sequence in range(self.first, self.last):
            start, stop = self._range(sequence)
            yield shard.tokens[start:stop].long(), shard.part(sequence)

    def activations(self, piece: int, point: str) -> Float[Tensor, "n d"]:
        """What passed a hook point at one of its sequences."""
        start, stop = self._range(self.first + piece)
        activations = self.store.shards[self.shard].activations(self.store.require_point(point))
        return activations[start:stop]

    def check(self, host: Host) -> None:
        """Raises `HostMismatchError` for a model that gives other activations."""
        self.store.require_model(host)

    def _range(self, sequence: int) -> tuple[int, int]:
        shard = self.store.shards[self.shard]
        start = int(shard.starts[sequence])
        return start, start + int(shard.lengths[sequence])
