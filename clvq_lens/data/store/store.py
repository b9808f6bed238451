"""A store of activations: documents that were read once, with what passed some hook points."""

import weakref
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import xxhash

from clvq_lens.data.document import Corpus
from clvq_lens.data.store.index import StoreIndex
from clvq_lens.data.store.shard import Shard
from clvq_lens.data.store.stored_activations import StoredActivations
from clvq_lens.errors import EmptyCorpusError, HostMismatchError
from clvq_lens.host.host import Host
from clvq_lens.showing import bytes_in_words


class ActivationStore(StoredActivations):
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
    def place(self) -> str:
        """The folder."""
        return str(self.folder)

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
            f"{bytes_in_words(self.size_bytes)}, {self.index.contents.dtype}, "
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

    @property
    def identity(self) -> dict[str, Any]:
        """What has to be the same for a fit to go on: the model, and its activations."""
        contents = self.index.contents
        return {"model": asdict(contents.model), "data": self.digest}

    @property
    def digest(self) -> str:
        """A digest of all activations, wherever the folder is."""
        checksums = [entry.checksum for entry in self.index.shards]
        return xxhash.xxh3_128_hexdigest(" ".join(checksums).encode())
