"""An endless stream of shuffled activations, through a buffer that does not grow."""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm

from clvq_lens.data.activations import Activations, ActivationSource
from clvq_lens.data.document import Item
from clvq_lens.data.document_order import DocumentOrder

_SHARE_OF_MEMORY = 1 / 16  # that the buffer may take; while batches are made of it, twice as much
_USUAL_MEMORY = 8 * 2**30  # bytes, where the system does not say how much there is


@dataclass(frozen=True)
class Position:
    """Where a stream is: enough to begin again there.

    Attributes:
        epoch: Passes over the data that were completed.
        n_documents: Documents read in the current pass.
    """

    epoch: int = 0
    n_documents: int = 0


@dataclass(frozen=True)
class _BufferedSequence:
    """One sequence in the buffer, without padding."""

    source: Float[Tensor, "pos d_source"]
    target: Float[Tensor, "pos d_target"]
    tokens: Int[Tensor, " pos"]
    mask: Bool[Tensor, " pos"]
    document: int

    @property
    def n_positions(self) -> int:
        return len(self.mask)

    @property
    def size_bytes(self) -> int:
        return self.source.nbytes + self.target.nbytes + self.tokens.nbytes + self.mask.nbytes


_Batching = Callable[[list[_BufferedSequence]], Iterator[Activations]]


class ShuffledStream:
    """An endless stream of shuffled batches over epochs, in memory that does not grow.

    Documents come in random order. A buffer of ``buffer_tokens``, kept in the model's dtype, is
    filled, half of it leaves in random order, and it is filled again. If the whole corpus fits, the
    model is run only once. Sequences stay whole where asked; otherwise single tokens are shuffled.

    Args:
        source: Reads the activations.
        order: The documents.
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
        """Documents of one pass over the data, as far as it has been read."""
        self._source, self._order = source, order
        self._buffer_tokens, self._batch_tokens = buffer_tokens, batch_tokens
        self._whole_sequences, self._generator = whole_sequences, generator
        self._buffer: list[_BufferedSequence] = []
        self._following = self._read()
        with tqdm(desc="activations", unit="tok", disable=not progress) as bar:
            self._fits = self._fill(bar)
        # Only now: the end of the first epoch is what tells that the corpus fits.
        self._following = itertools.chain(self._following, self._later_epochs())

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
            n_tokens: If there are more real tokens than this, a fair draw of so many is given; it
                is always of the same documents if they do not fit the buffer.
        """
        if not self._fits:
            documents = self._order.epoch(0)
            return self._source.first(documents, n_tokens, generator=self._generator)
        drawn: list[_BufferedSequence] = []
        n_missing = n_tokens
        for sequence in self._shuffle(self._buffer):
            if n_missing <= 0:
                break
            drawn.append(sequence)
            n_missing -= int(sequence.mask.sum())
        # Sequences also where single tokens are trained on: nobody needs them shuffled here.
        return map(self._source.ready, self._of_sequences(drawn))

    def __iter__(self) -> Iterator[Activations]:
        return self._leaving(self._of_sequences if self._whole_sequences else self._of_tokens)

    def single_tokens(self) -> Iterator[Activations]:
        """The same, as single tokens in random order, also where sequences are whole."""
        return self._leaving(self._of_tokens)

    def _leaving(self, batches: _Batching) -> Iterator[Activations]:
        """What leaves the buffer, which is filled again."""
        while self._buffer:
            buffer = self._shuffle(self._buffer)
            if self._fits:  # everything is here: the model need not run again
                yield from self._ready(batches(buffer))
                self.position = Position(self.position.epoch + 1)
            else:
                half = len(buffer) // 2
                self._buffer = buffer[:half]
                leaving = self._ready(batches(buffer[half:]))
                del buffer  # or what has left would stay in memory while others come
                yield from leaving
                self._fill()

    def _ready(self, batches: Iterable[Activations]) -> Iterator[Activations]:
        """Batches in float32; those of outliers alone are left out."""
        for batch in map(self._source.ready, batches):
            if batch.n_tokens:
                yield batch

    # ---- filling the buffer --------------------------------------------------------------------

    def _fill(self, bar: tqdm | None = None) -> bool:
        """Fills the buffer; True if the sequences that follow ended before it was full.

        Args:
            bar: Shown while it is filled for the first time.
        """
        n_tokens = size_bytes = 0
        for sequence in self._buffer:
            n_tokens += sequence.n_positions
            size_bytes += sequence.size_bytes
        while n_tokens < self._buffer_tokens:
            sequence = next(self._following, None)
            if sequence is None:
                return True
            self._buffer.append(sequence)
            n_tokens += sequence.n_positions
            size_bytes += sequence.size_bytes
            # The sequence is kept even if it is large: an empty buffer would end the stream.
            if size_bytes >= _SHARE_OF_MEMORY * memory_bytes(sequence.mask.device):
                break
            if bar is not None and bar.update(sequence.n_positions):  # about to be drawn anew
                bar.total = min(self._buffer_tokens, self._of_corpus(n_tokens))
        return False

    def _later_epochs(self) -> Iterator[_BufferedSequence]:
        """The sequences of all epochs after the current one."""
        while True:
            self.position = Position(self.position.epoch + 1)
            yield from self._read()

    def _read(self) -> Iterator[_BufferedSequence]:
        """The sequences of one epoch."""
        documents = self._counted(self._order.epoch(self.position.epoch))
        for batch in self._source.raw_batches(documents, generator=self._generator):
            for row in batch.mask.any(1).nonzero().flatten().tolist():  # with a real token
                keep = batch.attended[row] if self._whole_sequences else batch.mask[row]
                # Indexing by a mask copies, so that the whole batch need not stay in memory.
                yield _BufferedSequence(
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

    # ---- batches of what is in the buffer ------------------------------------------------------

    def _shuffle(self, sequences: list[_BufferedSequence]) -> list[_BufferedSequence]:
        return [sequences[i] for i in self._permutation(len(sequences)).tolist()]

    def _permutation(self, n: int) -> Int[Tensor, " n"]:
        return torch.randperm(n, generator=self._generator, device=self._generator.device)

    def _of_sequences(self, sequences: list[_BufferedSequence]) -> Iterator[Activations]:
        """Sequences of similar length share a batch; the batches come in random order."""
        # A stable sort: sequences of equal length stay in the random order in which they came.
        sequences = sorted(sequences, key=lambda sequence: sequence.n_positions)
        groups: list[list[_BufferedSequence]] = []
        for sequence in sequences:
            longest = sequence.n_positions
            if not groups or (len(groups[-1]) + 1) * longest > self._batch_tokens:
                groups.append([])
            groups[-1].append(sequence)
        for index in self._permutation(len(groups)).tolist():
            yield _padded(groups[index])

    def _of_tokens(self, sequences: list[_BufferedSequence]) -> Iterator[Activations]:
        """Single tokens in random order, as sequences of length one."""
        columns = _Columns(sequences)
        source, target = torch.cat(columns.source), torch.cat(columns.target)
        tokens = torch.cat(columns.tokens)
        real = torch.cat(columns.mask).nonzero().squeeze(1)  # whole sequences have special tokens
        order = real[self._permutation(len(real)).to(real.device)]
        for rows in order.split(self._batch_tokens):
            everywhere = torch.ones(len(rows), 1, dtype=torch.bool, device=tokens.device)
            yield Activations(
                source=source[rows].unsqueeze(1),
                target=target[rows].unsqueeze(1),
                tokens=tokens[rows].unsqueeze(1),
                attended=everywhere,
                mask=everywhere,
            )


def memory_bytes(device: torch.device) -> int:
    """The memory of a device, or a usual amount if the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    try:  # not on Windows
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return _USUAL_MEMORY


class _Columns:
    """The parts of some sequences, each as a list."""

    def __init__(self, sequences: list[_BufferedSequence]) -> None:
        self.source: list[Tensor] = []
        self.target: list[Tensor] = []
        self.tokens: list[Tensor] = []
        self.mask: list[Tensor] = []
        for sequence in sequences:
            self.source.append(sequence.source)
            self.target.append(sequence.target)
            self.tokens.append(sequence.tokens)
            self.mask.append(sequence.mask)


def _padded(group: list[_BufferedSequence]) -> Activations:
    """Some sequences side by side, padded on the right."""
    columns = _Columns(group)
    mask = pad_sequence(columns.mask, batch_first=True)
    lengths = torch.tensor([sequence.n_positions for sequence in group], device=mask.device)
    return Activations(
        source=pad_sequence(columns.source, batch_first=True),
        target=pad_sequence(columns.target, batch_first=True),
        tokens=pad_sequence(columns.tokens, batch_first=True),
        attended=torch.arange(mask.shape[1], device=mask.device) < lengths.unsqueeze(1),
        mask=mask,
    )
