"""A store of activations: documents that were read once, with what passed some hook points."""

import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from clvq_lens.data.document import Corpus, Document, Part
from clvq_lens.data.sequence_columns import SequenceColumns
from clvq_lens.data.store.index import StoreIndex
from clvq_lens.data.store.shard import Shard
from clvq_lens.errors import EmptyCorpusError, HookNotFoundError, HostMismatchError
from clvq_lens.host.host import Host
from clvq_lens.showing import Shown


class ActivationStore(Shown):
    """Activations that `cache_activations` wrote; pass it wherever data are expected.

    Fits, evaluations and concept tables then read the disk and not the model. Files are mapped into
    memory and verified when they are opened.

    Args:
        folder: The folder that was filled.

    Raises:
        FileNotFoundError: If there is no index in the folder.
        FileFormatError: If the index or a shard is damaged.
        EmptyCorpusError: If nothing has been written yet.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.index = StoreIndex.load(self.folder)
        if not self.n_tokens:
            raise EmptyCorpusError(
                f"{self.folder} holds no activations yet. Call cache_activations with the same "
                f"arguments again to go on."
            )
        self._known_hosts: weakref.WeakSet[torch.nn.Module] = weakref.WeakSet()
        self.corpus = Corpus()

    # ---- what it holds -------------------------------------------------------------------------

    @property
    def points(self) -> tuple[str, ...]:
        """Names of the hook points."""
        return tuple(self.index.contents.points)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the activations."""
        return getattr(torch, self.index.contents.dtype)

    @property
    def n_tokens(self) -> int:
        """Number of real tokens."""
        return self.index.n_tokens

    @property
    def n_documents(self) -> int:
        """Number of documents."""
        return self.index.n_documents

    @property
    def size_bytes(self) -> int:
        """Size of all shards on disk."""
        return self.index.size_bytes

    def headline(self) -> str:
        """Size, dtype and model."""
        unfinished = "" if self.index.complete else ", unfinished"
        return (
            f"{self.n_tokens:,} tokens of {self.n_documents:,} documents, "
            f"{self.size_bytes / 2**30:.2f} GB, {self.index.contents.dtype}, "
            f"{self.index.contents.model.model_name!r}{unfinished}"
        )

    def preview(self) -> pd.DataFrame:
        """The hook points."""
        rows = [
            {"hook point": point, "width": width}
            for point, width in self.index.contents.points.items()
        ]
        return pd.DataFrame(rows)

    # ---- as data -------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Document]:
        for number in range(len(self.index.shards)):
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

    @cached_property
    def shards(self) -> list[Shard]:
        """All shards; each is verified when its activations are used first."""
        contents = self.index.contents
        shards: list[Shard] = []
        for entry in self.index.shards:
            shards.append(Shard(self.folder, entry, contents.points, self.dtype))
        return shards

    def require_model(self, host: Host) -> None:
        """Raises `HostMismatchError` unless the activations are those of a model."""
        if host.model in self._known_hosts:
            return
        mine = host.identity([host.protocol.local(point) for point in self.points])
        if differences := mine.differences(self.index.contents.model):
            raise HostMismatchError(
                f"{self.folder} holds activations of another model: {'; '.join(differences)}. "
                f"Cache those of this model, or load the model that was read."
            )
        self._known_hosts.add(host.model)

    def require_point(self, point: str) -> str:
        """The hook point itself.

        Raises:
            HookNotFoundError: If there are no activations at it.
        """
        if point not in self.index.contents.points:
            raise HookNotFoundError(
                f"{self.folder} has no activations at {point!r}, only at {', '.join(self.points)}. "
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

    store: ActivationStore
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
