"""Reading a store for a fit: shards in random order, and sequences of some documents only."""

from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from clvq_lens.data.activations import Activations
from clvq_lens.data.sequence_columns import SequenceColumns
from clvq_lens.data.shuffle_buffer import ALL, ShuffleBuffer
from clvq_lens.data.store.stored_activations import StoredActivations

Choice = Callable[[np.ndarray], np.ndarray]
"""Tells from the digests of documents (64 bits, without a sign) which of them are wanted."""


class StoreReader:
    """Reads sequences from a store.

    Args:
        store: The store.
        source: Hook point of the source, as the store names it.
        target: Hook point of the target.
        choice: Which documents.
        ready: Makes activations ready for use.
        seed: Random seed for the order of shards and for draws.
        batch_tokens: Positions of a batch of a draw, about.
    """

    def __init__(
        self,
        store: StoredActivations,
        source: str,
        target: str,
        choice: Choice,
        ready: Callable[[Activations], Activations],
        *,
        seed: int,
        batch_tokens: int,
    ) -> None:
        self._store, self._source, self._target = store, source, target
        self._ready, self._seed, self._batch_tokens = ready, seed, batch_tokens
        self.n_read = self.n_documents = self.n_tokens = 0
        self.most_tokens: int | None = None
        self._chosen: list[Bool[Tensor, " s"]] = []
        """Of each shard, the sequences of wanted documents that have a real token."""
        for shard in store.shards:
            wanted = torch.from_numpy(choice(shard.digests.numpy().view(np.uint64)))
            chosen = wanted & (shard.n_real > 0)
            self._chosen.append(chosen)
            self.n_documents += len(shard.documents[chosen].unique())
            self.n_tokens += int(shard.n_real[chosen].sum())

    def epoch(self, number: int, *, skip: int = 0) -> Iterator[SequenceColumns]:
        """All sequences, shard by shard in the order of an epoch.

        Args:
            number: Number of the epoch.
            skip: Shards at the beginning that are left out.
        """
        self.n_read = 0
        generator = torch.Generator().manual_seed(self._seed + number)
        order = torch.randperm(len(self._chosen), generator=generator).tolist()
        for place, shard in enumerate(order):
            chosen = self._chosen[shard]
            self.n_read += len(self._store.shards[shard].documents[chosen].unique())
            if place >= skip:
                yield self._sequences(shard).chosen(chosen)

    def first(self, n_tokens: int, share: slice = ALL) -> Iterator[Activations]:
        """A fair draw of so many real tokens, always of the same sequences; ready for use."""
        batches = islice(self._first(n_tokens), share.start, share.stop, share.step)
        for buffer, group in batches:
            yield self._ready(buffer.sequences(group))

    def _first(self, n_tokens: int) -> Iterator[tuple[ShuffleBuffer, Int[Tensor, " b"]]]:
        """The batches of a draw, before anything is read."""
        generator = torch.Generator().manual_seed(self._seed)
        drawn = self._drawn(n_tokens, generator)
        for shard in torch.randperm(len(drawn), generator=generator).tolist():
            if len(drawn[shard]):
                sequences = self._sequences(shard).chosen(drawn[shard])
                buffer = ShuffleBuffer(
                    [sequences], batch_tokens=self._batch_tokens, generator=generator
                )
                for group in buffer.draw_sequences():
                    yield buffer, group

    def _sequences(self, shard: int) -> SequenceColumns:
        return self._store.sequences(shard, self._source, self._target)

    def _drawn(self, n_tokens: int, generator: torch.Generator) -> list[Int[Tensor, " c"]]:
        """Of each shard, the sequences that are drawn."""
        indexes = [chosen.nonzero().squeeze(1) for chosen in self._chosen]
        n_real: list[Tensor] = []
        for shard, index in zip(self._store.shards, indexes, strict=True):
            n_real.append(shard.n_real[index])
        order = torch.randperm(sum(map(len, indexes)), generator=generator)
        n_drawn = int((torch.cat(n_real)[order].cumsum(0) < n_tokens).sum()) + 1
        is_drawn = torch.zeros(len(order), dtype=torch.bool)
        is_drawn[order[:n_drawn]] = True
        drawn: list[Tensor] = []
        for index, is_drawn_of_shard in zip(
            indexes, is_drawn.split([len(index) for index in indexes]), strict=True
        ):
            drawn.append(index[is_drawn_of_shard])
        return drawn
