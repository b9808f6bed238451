"""An endless stream of shuffled activations, through a buffer that does not grow."""

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from tqdm.auto import tqdm

from clvq_lens.data.activations import Activations
from clvq_lens.data.reader import SequenceReader
from clvq_lens.data.sequences import Sequences
from clvq_lens.data.shuffle_buffer import ShuffleBuffer

_SHARE_OF_MEMORY = 1 / 16  # that the buffer may take; while it is filled, twice as much
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


class ShuffledStream:
    """An endless stream of shuffled batches over epochs, in memory that does not grow.

    Documents come in random order. A buffer of ``buffer_tokens``, kept in the model's dtype, is
    filled, leaves in random order, and is filled again. If the whole corpus fits, the model is run
    only once. Sequences stay whole where asked; otherwise single tokens are shuffled.

    Args:
        reader: Reads the activations.
        ready: Makes activations ready for use.
        buffer_tokens: Size of the buffer.
        batch_tokens: Positions of a batch, about.
        whole_sequences: Whether a batch consists of sequences or of single tokens.
        generator: Decides the order in which sequences leave the buffer.
        progress: Whether to show a progress bar while the buffer is filled for the first time.
    """

    def __init__(
        self,
        reader: SequenceReader,
        ready: Callable[[Activations], Activations],
        *,
        buffer_tokens: int,
        batch_tokens: int,
        whole_sequences: bool,
        generator: torch.Generator,
        progress: bool = False,
    ) -> None:
        self.epoch = 0
        """Passes over the data that were completed."""
        self.n_documents = 0
        """Documents of one pass over the data, as far as it has been read."""
        self._reader, self._ready = reader, ready
        self._buffer_tokens, self._batch_tokens = buffer_tokens, batch_tokens
        self._whole_sequences, self._generator = whole_sequences, generator
        self._left_over: Sequences | None = None
        self._following = self._read()
        with tqdm(desc="activations", unit="tok", disable=not progress) as bar:
            self._fits = self._fill(bar)
        # Only now: the end of the first epoch is what tells that the corpus fits.
        self._following = itertools.chain(self._following, self._later_epochs())
        self.n_tokens = self._count_tokens()
        """Real tokens of the corpus: counted if it fits the buffer, and else estimated from it."""

    @property
    def position(self) -> Position:
        """Where the stream is."""
        return Position(self.epoch, self._reader.n_read)

    def _count_tokens(self) -> int:
        if self._reader.n_tokens is not None:
            return self._reader.n_tokens
        n_real = self._buffer.n_tokens
        return n_real if self._fits else self._of_corpus(n_real, self._buffer.n_documents)

    def _of_corpus(self, n_tokens: int, n_documents: int) -> int:
        """How many tokens the corpus holds, if some of its documents hold so many.

        These come in random order, so they are like the others.
        """
        return round(n_tokens * self._reader.n_documents / max(1, n_documents))

    def once(self, n_tokens: int) -> Iterator[Activations]:
        """All activations one time, from the buffer or else from the model.

        Args:
            n_tokens: If there are more real tokens than this, a fair draw of so many is given; it
                is always of the same documents if they do not fit the buffer.
        """
        # Sequences also where single tokens are trained on: nobody needs them shuffled here.
        if self._fits:
            return map(self._ready, self._buffer.of_sequences(n_tokens))
        return self._reader.first(n_tokens)

    def __iter__(self) -> Iterator[Activations]:
        return self._leaving(
            ShuffleBuffer.of_sequences if self._whole_sequences else ShuffleBuffer.of_tokens
        )

    def single_tokens(self) -> Iterator[Activations]:
        """The same, as single tokens in random order, also where sequences are whole."""
        return self._leaving(ShuffleBuffer.of_tokens)

    def _leaving(
        self, batches_of: Callable[[ShuffleBuffer], Iterator[Activations]]
    ) -> Iterator[Activations]:
        """What leaves the buffer, which is filled again."""
        while len(self._buffer):
            for batch in map(self._ready, batches_of(self._buffer)):
                if batch.n_tokens:  # and not outliers alone
                    yield batch
            if self._fits:  # everything is here: the model need not run again
                self.epoch += 1
            else:
                del self._buffer  # or what has left would stay in memory while others come
                self._fill()

    # ---- filling the buffer --------------------------------------------------------------------

    def _fill(self, bar: tqdm | None = None) -> bool:
        """Fills the buffer; True if the sequences that follow ended before it was full.

        Args:
            bar: Shown while it is filled for the first time.
        """
        parts: list[Sequences] = []
        n_positions, n_documents, ended = 0, 0, False
        while True:
            part = self._left_over or next(self._following, None)
            self._left_over = None
            if part is None:
                ended = True
                break
            capacity = self._capacity(part)
            # One sequence at least, however large it is: an empty buffer would end the stream.
            n = 1 + int((part.lengths.cumsum(0) < capacity - n_positions).sum())
            if n < len(part):
                self._left_over = part.between(n, len(part))
            parts.append(part.between(0, n))
            n_positions += parts[-1].n_positions
            n_documents += len(parts[-1].documents.unique())
            if n_positions >= capacity:
                break
            if bar is not None and bar.update(n_positions - bar.n):  # about to be drawn anew
                bar.total = min(self._buffer_tokens, self._of_corpus(n_positions, n_documents))
        if not parts[0].on_disk:
            parts = [Sequences.joined(parts)]
        self._buffer = ShuffleBuffer(
            parts, batch_tokens=self._batch_tokens, generator=self._generator
        )
        return ended

    def _capacity(self, part: Sequences) -> int:
        """How many positions the buffer takes, if others need as much memory as these."""
        most_bytes = _SHARE_OF_MEMORY * memory_bytes(part.mask.device)
        return min(self._buffer_tokens, int(most_bytes / max(1, part.row_bytes)))

    def _later_epochs(self) -> Iterator[Sequences]:
        """The sequences of all epochs after the current one."""
        while True:
            self.epoch += 1
            yield from self._read()

    def _read(self) -> Iterator[Sequences]:
        """The sequences of one epoch."""
        for part in self._reader.epoch(self.epoch):
            self.n_documents = max(self.n_documents, self._reader.n_read)
            yield part
        self.n_documents = max(self.n_documents, self._reader.n_read)


def memory_bytes(device: torch.device) -> int:
    """The memory of a device, or a usual amount if the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    try:  # not on Windows
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return _USUAL_MEMORY
