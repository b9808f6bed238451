"""Streams pairs of source and target activations from a model through a shuffle buffer."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from clvq_lens.config import LongTexts
from clvq_lens.errors import NonFiniteError
from clvq_lens.host.host import Host
from clvq_lens.training.documents import Document
from clvq_lens.training.tokens import TokenBatch, token_batches


@dataclass(frozen=True)
class Activations:
    """Source and target activations of some sequences.

    Attributes:
        source: Residual stream at the source.
        target: Residual stream at the target, on the device of the source.
        tokens: Token ids.
        attended: True where a sequence has a token, False on padding.
        mask: True on real tokens, which take part in losses and statistics.
    """

    source: Float[Tensor, "b pos d_source"]
    target: Float[Tensor, "b pos d_target"]
    tokens: Int[Tensor, "b pos"]
    attended: Bool[Tensor, "b pos"]
    mask: Bool[Tensor, "b pos"]

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


class ActivationSource:
    """Runs a model on documents and gives the activations at two hook points.

    Args:
        host: The model.
        source: Hook point that is read.
        target: Hook point that is reconstructed.
        long_texts: What to do with a text beyond the context.
    """

    def __init__(self, host: Host, source: str, target: str, *, long_texts: LongTexts) -> None:
        self.host, self.source, self.target = host, source, target
        self._long_texts: LongTexts = long_texts

    def batches(self, documents: Iterable[Document]) -> Iterator[Activations]:
        """The activations of all documents, in order.

        Raises:
            NonFiniteError: If the model produces NaN or infinity.
            TextTooLongError: If a text is too long and ``long_texts`` is "error".
        """
        tokens = token_batches(self.host, documents, long_texts=self._long_texts)
        return map(self.of, tokens)

    def of(self, batch: TokenBatch) -> Activations:
        """The activations of one batch of tokens."""
        found = self.host.activations(
            batch.tokens.to(self.host.device),
            batch.attended.to(self.host.device),
            [self.source, self.target],
        )
        source = found[self.source].float()
        device = source.device
        activations = Activations(
            source,
            found[self.target].float().to(device),
            batch.tokens.to(device),
            batch.attended.to(device),
            batch.mask.to(device),
        )
        for name, values in ((self.source, source), (self.target, activations.target)):
            check_finite(values[activations.attended], name)
        return activations


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

    @property
    def size_bytes(self) -> int:
        parts = (self.source, self.target, self.tokens, self.mask)
        return sum(part.numel() * part.element_size() for part in parts)


class ShuffledStream:
    """An endless stream of shuffled batches over epochs, in memory that does not grow.

    A buffer of ``buffer_bytes`` is filled, half of it leaves in random order, and it is filled
    again. If the whole corpus fits, the model is run only once. Sequences stay whole where asked;
    otherwise single tokens are shuffled.

    Args:
        source: Of activations.
        documents: Called at the start of every epoch.
        buffer_bytes: Size of the buffer.
        batch_tokens: Positions of a batch, about.
        whole_sequences: Whether a batch consists of sequences or of single tokens.
        generator: Decides the order.
    """

    def __init__(
        self,
        source: ActivationSource,
        documents: Callable[[], Iterable[Document]],
        *,
        buffer_bytes: int,
        batch_tokens: int,
        whole_sequences: bool,
        generator: torch.Generator,
    ) -> None:
        self.position = Position()
        self.n_documents = 0
        self._source, self._documents = source, documents
        self._buffer_bytes, self._batch_tokens = buffer_bytes, batch_tokens
        self._whole_sequences, self._generator = whole_sequences, generator
        self._buffer: list[_Sequence] = []
        self._epoch = self._read()
        self._fits = self._fill(first=True)

    def once(self) -> Iterator[Activations]:
        """All activations one time: from the buffer, in random order, or else from the model."""
        if self._fits:
            return self._of_sequences(self._buffer)
        return self._source.batches(self._documents())

    def __iter__(self) -> Iterator[Activations]:
        while self._buffer:
            buffer = self._shuffle(self._buffer)
            if self._fits:  # everything is here: the model need not run again
                yield from self._batches(buffer)
                self.position = Position(self.position.epoch + 1)
            else:
                half = len(buffer) // 2
                self._buffer, leaving = buffer[:half], self._batches(buffer[half:])
                del buffer  # or what has left would stay in memory while others come
                yield from leaving
                self._fill()

    def _fill(self, *, first: bool = False) -> bool:
        """Fills the buffer, over the end of an epoch; True if the first one ended before that."""
        size_bytes = sum(sequence.size_bytes for sequence in self._buffer)
        while size_bytes < self._buffer_bytes:
            sequence = next(self._epoch, None)
            if sequence is None:
                if first:
                    return True
                self.position = Position(self.position.epoch + 1)
                self._epoch = self._read()
                continue
            self._buffer.append(sequence)
            size_bytes += sequence.size_bytes
        return False

    def _read(self) -> Iterator[_Sequence]:
        """The sequences of one epoch."""
        for batch in self._source.batches(self._counted(self._documents())):
            for row in batch.mask.any(1).nonzero().flatten().tolist():  # with a real token
                keep = batch.attended[row] if self._whole_sequences else batch.mask[row]
                parts = (batch.source, batch.target, batch.tokens, batch.mask)
                yield _Sequence(*(part[row][keep] for part in parts))

    def _counted(self, documents: Iterable[Document]) -> Iterator[Document]:
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


def _padded(group: list[_Sequence]) -> Activations:
    source, target, tokens, mask = (
        pad_sequence([getattr(sequence, part) for sequence in group], batch_first=True)
        for part in ("source", "target", "tokens", "mask")
    )
    lengths = torch.tensor([len(sequence.mask) for sequence in group], device=mask.device)
    attended = torch.arange(mask.shape[1], device=mask.device) < lengths.unsqueeze(1)
    return Activations(source, target, tokens, attended, mask)
