"""Streams pairs of source and target activations from a model through a shuffle buffer."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm

from clvq_lens.config import LongTexts
from clvq_lens.errors import NonFiniteError
from clvq_lens.host.host import Host
from clvq_lens.training.document import Item
from clvq_lens.training.order import DocumentOrder
from clvq_lens.training.tokens import TokenBatch, token_batches

_SHARE_OF_MEMORY = 1 / 16  # that the buffer may take; while batches are made of it, twice as much
_FEWEST_AT_ONCE, _MOST_AT_ONCE = 16, 256  # documents of a draw
_USUAL_MEMORY = 8 * 2**30  # where nothing tells how much there is


@dataclass(frozen=True)
class Activations:
    """Source and target activations of some sequences.

    Attributes:
        source: Residual stream at the source.
        target: Residual stream at the target, on the device of the source.
        tokens: Token ids.
        attended: True where a sequence has a token, False on padding.
        mask: True on real tokens, which take part in losses and statistics.
        documents: Running number of the document of each sequence, where it is known.
        n_outliers: Tokens that were left out of the mask because their activation is too long.
    """

    source: Float[Tensor, "b pos d_source"]
    target: Float[Tensor, "b pos d_target"]
    tokens: Int[Tensor, "b pos"]
    attended: Bool[Tensor, "b pos"]
    mask: Bool[Tensor, "b pos"]
    documents: tuple[int, ...] = ()
    n_outliers: int = 0

    @property
    def n_tokens(self) -> int:
        """Number of real tokens."""
        return int(self.mask.sum())


@dataclass(frozen=True)
class Position:
    """Where a stream is: enough to begin again there.

    Attributes:
        epoch: Passes over the data that were completed.
        n_documents: Documents read in the current pass.
    """

    epoch: int = 0
    n_documents: int = 0


Outliers = Callable[[Tensor, Tensor], Bool[Tensor, "b pos"]]
"""From activations at source and target: True on those that are too long."""


class ActivationSource:
    """Runs a model on documents and gives the activations at two hook points.

    Args:
        host: The model.
        source: Hook point that is read.
        target: Hook point that is reconstructed.
        long_texts: What to do with a text beyond the context.
        outliers: Tells which tokens are left out of the mask; None: special ones alone are.
    """

    def __init__(
        self,
        host: Host,
        source: str,
        target: str,
        *,
        long_texts: LongTexts,
        outliers: Outliers | None = None,
    ) -> None:
        self.host, self.source, self.target = host, source, target
        self._long_texts: LongTexts = long_texts
        self._outliers = outliers

    def batches(
        self, documents: Iterable[Item], *, generator: torch.Generator | None = None
    ) -> Iterator[Activations]:
        """The activations of all documents, ready for use.

        Args:
            documents: In the order in which they are read.
            generator: Decides the order of batches, as for `token_batches`: whoever may stop
                before the end needs one.

        Raises:
            NonFiniteError: If the model produces NaN or infinity.
            TextTooLongError: If a text is too long and ``long_texts`` is "error".
        """
        return map(self.ready, self.raw_batches(documents, generator=generator))

    def first(
        self, documents: Iterable[Item], n_tokens: int, *, generator: torch.Generator
    ) -> Iterator[Activations]:
        """The activations of the first documents, until they hold so many real tokens.

        Documents of similar length share a batch, so to stop anywhere would favour some lengths.
        A few documents at a time are read to their end, unless they are very long.

        Args:
            documents: In random order.
            n_tokens: After which it ends.
            generator: Decides the order of batches.
        """
        documents, n_documents, n_read = iter(documents), 0, 0
        n_more = _FEWEST_AT_ONCE
        while n_read < n_tokens and (part := list(islice(documents, n_more))):
            for batch in self.batches(part, generator=generator):
                yield batch
                n_read += batch.n_tokens
                if n_read >= n_tokens:
                    return
            n_documents += len(part)
            half_of_the_rest = (n_tokens - n_read) * n_documents // max(1, 2 * n_read)
            n_more = min(max(half_of_the_rest, _FEWEST_AT_ONCE), _MOST_AT_ONCE)

    def raw_batches(
        self, documents: Iterable[Item], *, generator: torch.Generator | None = None
    ) -> Iterator[Activations]:
        """The same in the model's dtype, with outliers in the mask: for storing."""
        tokens = token_batches(
            self.host, documents, long_texts=self._long_texts, generator=generator
        )
        return map(self.of, tokens)

    def of(self, batch: TokenBatch) -> Activations:
        """The activations of one batch of tokens, in the model's dtype."""
        found = self.host.activations(
            batch.tokens.to(self.host.device),
            batch.attended.to(self.host.device),
            [self.source, self.target],
        )
        source = found[self.source]
        device = source.device
        activations = Activations(
            source,
            found[self.target].to(device),
            batch.tokens.to(device),
            batch.attended.to(device),
            batch.mask.to(device),
            batch.documents,
        )
        for name, values in ((self.source, source), (self.target, activations.target)):
            check_finite(values[activations.attended], name)
        return activations

    def ready(self, batch: Activations) -> Activations:
        """Activations in float32, without outliers in the mask."""
        source, target = batch.source.float(), batch.target.float()
        if self._outliers is None:
            return replace(batch, source=source, target=target)
        long = self._outliers(source, target) & batch.mask
        mask = batch.mask & ~long
        return replace(batch, source=source, target=target, mask=mask, n_outliers=int(long.sum()))


def check_finite(values: Float[Tensor, "n d"], name: str) -> None:
    """Raises `NonFiniteError` if activations hold NaN or infinity."""
    if not torch.isfinite(values).all():
        bad = (~torch.isfinite(values)).any(1).sum()
        raise NonFiniteError(
            f"{int(bad)} of {len(values)} activations at {name!r} hold NaN or infinity. "
            f"Check the model and its dtype; float16 overflows where bfloat16 does not."
        )


@dataclass(frozen=True)
class _Sequence:
    """One sequence in the buffer, without padding."""

    source: Float[Tensor, "pos d_source"]
    target: Float[Tensor, "pos d_target"]
    tokens: Int[Tensor, " pos"]
    mask: Bool[Tensor, " pos"]
    document: int

    @property
    def size_bytes(self) -> int:
        parts = (self.source, self.target, self.tokens, self.mask)
        return sum(part.numel() * part.element_size() for part in parts)


class ShuffledStream:
    """An endless stream of shuffled batches over epochs, in memory that does not grow.

    Documents come in random order. A buffer of ``buffer_tokens``, kept in the model's dtype, is
    filled, half of it leaves in random order, and it is filled again. If the whole corpus fits, the
    model is run only once. Sequences stay whole where asked; otherwise single tokens are shuffled.

    Args:
        source: Of activations.
        order: Of the documents.
        buffer_tokens: Size of the buffer.
        batch_tokens: Positions of a batch, about.
        whole_sequences: Whether a batch consists of sequences or of single tokens.
        generator: Decides the order in which sequences leave the buffer.
        progress: Whether to show a progress bar while the buffer is filled for the first time.
    """

    def __init__(
        self,
        source: ActivationSource,
        order: DocumentOrder,
        *,
        buffer_tokens: int,
        batch_tokens: int,
        whole_sequences: bool,
        generator: torch.Generator,
        progress: bool = False,
    ) -> None:
        self.position = Position()
        self.n_documents = 0
        self._source, self._order = source, order
        self._buffer_tokens, self._batch_tokens = buffer_tokens, batch_tokens
        self._whole_sequences, self._generator = whole_sequences, generator
        self._buffer: list[_Sequence] = []
        self._epoch = self._read()
        with tqdm(desc="activations", unit="tok", disable=not progress) as bar:
            self._fits = self._fill(bar)

    @property
    def n_tokens(self) -> int:
        """Real tokens of the corpus: counted if it fits the buffer, and else estimated from it."""
        n_real = sum(int(sequence.mask.sum()) for sequence in self._buffer)
        return n_real if self._fits else self._of_corpus(n_real)

    def _of_corpus(self, n_tokens: int) -> int:
        """How many tokens the corpus holds, if the documents in the buffer hold so many.

        These come in random order, so they are like the others.
        """
        n_documents = len({sequence.document for sequence in self._buffer})
        return round(n_tokens * self._order.n_documents / max(1, n_documents))

    def once(self, n_tokens: int) -> Iterator[Activations]:
        """All activations one time, from the buffer or else from the model.

        Args:
            n_tokens: Of more real tokens than that a fair draw is given, always of the same
                documents if they do not fit the buffer.
        """
        if not self._fits:
            documents = self._order.epoch(0)
            return self._source.first(documents, n_tokens, generator=self._generator)
        drawn: list[_Sequence] = []
        for sequence in self._shuffle(self._buffer):
            if n_tokens <= 0:
                break
            drawn.append(sequence)
            n_tokens -= int(sequence.mask.sum())
        return map(self._source.ready, self._of_sequences(drawn))

    def __iter__(self) -> Iterator[Activations]:
        while self._buffer:
            buffer = self._shuffle(self._buffer)
            if self._fits:  # everything is here: the model need not run again
                yield from self._ready(buffer)
                self.position = Position(self.position.epoch + 1)
            else:
                half = len(buffer) // 2
                self._buffer, leaving = buffer[:half], self._ready(buffer[half:])
                del buffer  # or what has left would stay in memory while others come
                yield from leaving
                self._fill()

    def _ready(self, sequences: list[_Sequence]) -> Iterator[Activations]:
        """Batches of some sequences; a batch of outliers alone has nothing to learn from."""
        batches = map(self._source.ready, self._batches(sequences))
        return (batch for batch in batches if batch.n_tokens)

    def _fill(self, bar: tqdm | None = None) -> bool:
        """Fills the buffer, over the end of an epoch; True if the first one ended before that.

        Args:
            bar: Shown while it is filled for the first time.
        """
        n_tokens = sum(len(sequence.mask) for sequence in self._buffer)
        size_bytes = sum(sequence.size_bytes for sequence in self._buffer)
        while n_tokens < self._buffer_tokens:
            sequence = next(self._epoch, None)
            if sequence is None:
                if bar is not None:
                    return True
                self.position = Position(self.position.epoch + 1)
                self._epoch = self._read()
                continue
            self._buffer.append(sequence)
            n_tokens += len(sequence.mask)
            size_bytes += sequence.size_bytes
            if size_bytes >= _SHARE_OF_MEMORY * memory_bytes(sequence.mask.device):
                break
            if bar is not None and bar.update(len(sequence.mask)):  # about to be drawn anew
                bar.total = min(self._buffer_tokens, self._of_corpus(n_tokens))
        return False

    def _read(self) -> Iterator[_Sequence]:
        """The sequences of one epoch."""
        documents = self._counted(self._order.epoch(self.position.epoch))
        for batch in self._source.raw_batches(documents, generator=self._generator):
            for row in batch.mask.any(1).nonzero().flatten().tolist():  # with a real token
                keep = batch.attended[row] if self._whole_sequences else batch.mask[row]
                yield _Sequence(
                    source=batch.source[row][keep],
                    target=batch.target[row][keep],
                    tokens=batch.tokens[row][keep],
                    mask=batch.mask[row][keep],
                    document=batch.documents[row],
                )

    def _counted(self, documents: Iterable[Item]) -> Iterator[Item]:
        for document in documents:
            self.position = Position(self.position.epoch, self.position.n_documents + 1)
            self.n_documents = max(self.n_documents, self.position.n_documents)
            yield document

    def _shuffle(self, sequences: list[_Sequence]) -> list[_Sequence]:
        return [sequences[i] for i in self._permutation(len(sequences)).tolist()]

    def _permutation(self, n: int) -> Tensor:
        return torch.randperm(n, generator=self._generator, device=self._generator.device)

    def _batches(self, sequences: list[_Sequence]) -> Iterator[Activations]:
        return (
            self._of_sequences(sequences) if self._whole_sequences else self._of_tokens(sequences)
        )

    def _of_sequences(self, sequences: list[_Sequence]) -> Iterator[Activations]:
        """Sequences of similar length share a batch; the batches come in random order."""
        sequences = sorted(sequences, key=lambda sequence: len(sequence.mask))
        groups: list[list[_Sequence]] = []
        for sequence in sequences:
            longest = len(sequence.mask)
            if not groups or (len(groups[-1]) + 1) * longest > self._batch_tokens:
                groups.append([])
            groups[-1].append(sequence)
        for index in self._permutation(len(groups)).tolist():
            yield _padded(groups[index])

    def _of_tokens(self, sequences: list[_Sequence]) -> Iterator[Activations]:
        """Single tokens in random order, as sequences of length one."""
        source, target, tokens = (
            torch.cat([getattr(sequence, part) for sequence in sequences])
            for part in ("source", "target", "tokens")
        )
        order = self._permutation(len(tokens)).to(tokens.device)
        for rows in order.split(self._batch_tokens):
            everywhere = torch.ones(len(rows), 1, dtype=torch.bool, device=tokens.device)
            x, y, ids = (part[rows].unsqueeze(1) for part in (source, target, tokens))
            yield Activations(x, y, ids, everywhere, everywhere)


def memory_bytes(device: torch.device) -> int:
    """The memory of a device, as far as that can be told."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    try:  # not on Windows
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return _USUAL_MEMORY


def _padded(group: list[_Sequence]) -> Activations:
    source, target, tokens, mask = (
        pad_sequence([getattr(sequence, part) for sequence in group], batch_first=True)
        for part in ("source", "target", "tokens", "mask")
    )
    lengths = torch.tensor([len(sequence.mask) for sequence in group], device=mask.device)
    attended = torch.arange(mask.shape[1], device=mask.device) < lengths.unsqueeze(1)
    return Activations(source, target, tokens, attended, mask)
