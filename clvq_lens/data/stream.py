"""An endless stream of shuffled activations, through a buffer that does not grow."""

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from tqdm.auto import tqdm

from clvq_lens.data.activations import Activations, ActivationSource, Share
from clvq_lens.data.forecast import Forecast
from clvq_lens.data.sequence_columns import SequenceColumns
from clvq_lens.data.sequence_reader import SequenceReader
from clvq_lens.data.shuffle_buffer import ALL, ShuffleBuffer
from clvq_lens.processes import ALONE, Processes

SHARE_OF_MEMORY = 1 / 16
"""Part of a device's memory that the buffer may take; while it is filled, twice as much."""
BESIDE_BYTES = 9
"""Of a position beside its activations: its token, and whether that is real."""
_TOGETHER_BYTES = 8 * 2**20  # of batches that are taken from the buffer at once
_USUAL_MEMORY = 8 * 2**30  # bytes, where the system does not say how much there is


@dataclass(frozen=True, kw_only=True)
class StreamState:
    """Where a stream is: enough to go on there with the same batches.

    Attributes:
        epoch: Passes over the data that were completed.
        part: Parts of the epoch before the first one in the buffer.
        sequence: Sequences of that part before the first one in the buffer.
        n_given: Batches of the buffer that were given in this pass over it.
        drawn_from: State of the generator that decided the order of this pass; None before that.
        memory_bytes: Memory of the machine, which limits the buffer; None: nothing was read yet.
    """

    epoch: int
    part: int
    sequence: int
    n_given: int
    drawn_from: Tensor | None
    memory_bytes: int | None


class ShuffledStream:
    """An endless stream of shuffled batches over epochs, in memory that does not grow.

    Documents come in random order. A buffer of ``buffer_tokens``, kept in the model's dtype, is
    filled, leaves in random order, and is filled again. If the whole corpus fits, the model is run
    only once. Sequences stay whole where asked; otherwise single tokens are shuffled.

    Args:
        reader: Reads the activations.
        source: Makes them ready for use, and knows which are outliers.
        buffer_tokens: Size of the buffer.
        batch_tokens: Positions of a batch, about.
        whole_sequences: Whether a batch consists of sequences or of single tokens.
        generator: Decides the order in which sequences leave the buffer.
        processes: Who shares every batch.
        progress: Whether to show a progress bar while the buffer is filled for the first time.
    """

    def __init__(
        self,
        reader: SequenceReader,
        source: ActivationSource,
        *,
        buffer_tokens: int,
        batch_tokens: int,
        whole_sequences: bool,
        generator: torch.Generator,
        processes: Processes = ALONE,
        progress: bool = False,
    ) -> None:
        self.fits = False
        """Whether all data are in the buffer, so that nothing is read again."""
        self.epoch = 0
        """Passes over the data that were completed, as far as the buffer has been filled."""
        self.n_documents = 0
        """Documents of one pass over the data, as far as it has been read."""
        self._reader, self._source = reader, source
        self._buffer_tokens, self._batch_tokens = buffer_tokens, batch_tokens
        self._whole_sequences, self._generator = whole_sequences, generator
        self._processes = processes
        self._left_over: SequenceColumns | None = None
        self._n_parts = self._n_used = 0  # parts of the epoch; sequences of the one that is left
        self._place = (0, 0, 0)  # where the buffer begins: epoch, part, sequence
        self._n_given = 0
        self._drawn_from: Tensor | None = None
        self._resumed: StreamState | None = None
        self._memory_bytes: int | None = None
        with tqdm(desc="activations", unit="tok", disable=not progress) as bar:
            self._begin(bar)
        self.n_tokens = self._count_tokens()
        """Real tokens of the corpus: counted if it fits the buffer, and else estimated from it."""

    def _begin(self, bar: tqdm | None = None) -> None:
        """Fills the buffer for the first time."""
        self._following = self._read()
        self.fits = self._fill(bar)
        # Only now: the end of the first epoch is what tells that the corpus fits.
        self._following = itertools.chain(self._following, self._later_epochs())

    def _count_tokens(self) -> int:
        if self._reader.n_tokens is not None:
            return self._reader.n_tokens
        n_real = self._buffer.n_tokens
        return n_real if self.fits else self._of_corpus(n_real, self._buffer.n_documents)

    def _of_corpus(self, n_tokens: int, n_documents: int) -> int:
        """How many tokens the corpus holds, if some of its documents hold so many.

        These come in random order, so they are like the others.
        """
        there = round(n_tokens * self._reader.n_documents / max(1, n_documents))
        most = self._reader.most_tokens
        return there if most is None else min(there, most)

    def once(self, n_tokens: int, *, shared: bool = False) -> Iterator[Activations]:
        """All activations one time, from the buffer or else from the reader.

        Args:
            n_tokens: If there are more real tokens than this, a fair draw of so many is given; it
                is always of the same documents if they do not fit the buffer.
            shared: Whether every process is given batches of its own; else all have the same.
        """
        mine = self._processes.rows if shared else ALL
        if not self.fits:
            return self._reader.first(n_tokens, mine)
        # Sequences also where single tokens are trained on: nobody needs them shuffled here.
        drawn = self._buffer.draw_sequences(n_tokens)[mine]
        return (self._source.in_float(self._buffer.sequences(group)) for group in drawn)

    def judge_outliers_(self) -> None:
        """Leaves out what are outliers now; to be called once it is known how long these are."""
        if self._source.knows_outliers:
            self._buffer.leave_out_(self._source.are_outliers)

    # ---- endless batches -----------------------------------------------------------------------

    def __iter__(self) -> Iterator[Activations]:
        return self._leaving(single_tokens=not self._whole_sequences)

    def single_tokens(self) -> Iterator[Activations]:
        """The same, as single tokens in random order, also where sequences are whole."""
        return self._leaving(single_tokens=True)

    def _leaving(self, *, single_tokens: bool) -> Iterator[Activations]:
        """What leaves the buffer, which is filled again."""
        while len(self._buffer):
            drawn = self._drawn(single_tokens=single_tokens)[self._n_given :]
            for batch in self._tokens(drawn) if single_tokens else self._sequences(drawn):
                self._n_given += 1
                if batch.share.n_tokens:  # and not outliers alone
                    yield batch
            self._n_given = 0
            if self.fits:  # everything is here: the model need not run again
                self.epoch += 1
            else:
                del self._buffer  # or these stay in memory while others come
                self._fill()

    def _sequences(self, drawn: Sequence[Tensor]) -> Iterator[Activations]:
        """Batches of whole sequences."""
        mine = self._processes.rows
        for group in drawn:
            batch = self._source.in_float(self._buffer.sequences(group, mine))
            yield self._as_share(batch, len(group), self._buffer.n_real(group))

    def _tokens(self, drawn: Sequence[Tensor]) -> Iterator[Activations]:
        """Batches of single tokens, some of them taken from the buffer together.

        A batch of short rows is copied faster than torch is called for it.
        """
        mine = self._processes.rows
        n_together = max(1, _TOGETHER_BYTES // (self._batch_tokens * self._buffer.row_bytes))
        for first in range(0, len(drawn), n_together):
            some = drawn[first : first + n_together]
            shares = [rows[mine] for rows in some]
            together = self._source.in_float(self._buffer.tokens(torch.cat(shares)))
            start = 0
            for whole, share in zip(some, shares, strict=True):
                batch = together.of_tokens(start, start + len(share))
                yield self._as_share(batch, len(whole), len(whole))
                start += len(share)

    def _as_share(self, batch: Activations, n_rows: int, n_tokens: int) -> Activations:
        """The rows of this process; they know how many tokens all processes have."""
        processes = self._processes
        if not processes.shared:
            return batch
        share = Share(processes.rank, processes.size, n_rows, n_tokens)
        return replace(batch, share_of_batch=share)

    def _drawn(self, *, single_tokens: bool) -> list[Tensor]:
        """The batches of a pass over the buffer."""
        resumed, self._resumed = self._resumed, None
        draw = self._buffer.draw_tokens if single_tokens else self._buffer.draw_sequences
        now = self._generator.get_state()
        if resumed is None or resumed.drawn_from is None:
            self._n_given, self._drawn_from = 0, now
            return draw()
        self._n_given, self._drawn_from = resumed.n_given, resumed.drawn_from
        self._generator.set_state(resumed.drawn_from)
        drawn = draw()
        self._generator.set_state(now)
        return drawn

    # ---- where it is ---------------------------------------------------------------------------

    def state(self) -> StreamState:
        """Where the stream is, between two batches."""
        if self._resumed is not None:  # nothing was given since
            return self._resumed
        epoch, part, sequence = (self.epoch, 0, 0) if self.fits else self._place
        return StreamState(
            epoch=epoch,
            part=part,
            sequence=sequence,
            n_given=self._n_given,
            drawn_from=self._drawn_from,
            memory_bytes=self._memory_bytes,
        )

    def restore_(self, state: StreamState) -> None:
        """Goes on where another stream of the same data was."""
        if self._memory_bytes != state.memory_bytes:
            # That of the machine that it began on, or the buffer would hold other tokens.
            self._memory_bytes, self._left_over, self.epoch = state.memory_bytes, None, 0
            del self._buffer
            self._begin()
        self.epoch, self._resumed = state.epoch, state
        if self.fits:
            return
        del self._buffer
        self._n_parts = state.part
        self._following = itertools.chain(self._read(skip=state.part), self._later_epochs())
        self._left_over = None
        if state.sequence:
            part = next(self._following)
            self._left_over, self._n_used = part.between(state.sequence, len(part)), state.sequence
        self._fill()

    # ---- filling the buffer --------------------------------------------------------------------

    def _fill(self, bar: tqdm | None = None) -> bool:
        """Fills the buffer; True if the sequences that follow ended before it was full.

        Args:
            bar: Shown while it is filled for the first time.
        """
        self._place = (self.epoch, self._n_parts, 0)
        if self._left_over is not None:  # of the last part that was read
            self._place = (self.epoch, self._n_parts - 1, self._n_used)
        parts: list[SequenceColumns] = []
        forecast = Forecast("Reading", silent=bar is None or bar.disable)
        n_positions, n_documents, ended = 0, 0, False
        while True:
            part = self._next_part()
            if part is None:
                ended = True
                break
            capacity = self._capacity(part)
            # One sequence at least, however large it is: an empty buffer would end the stream.
            n = 1 + int((part.lengths.cumsum(0) < capacity - n_positions).sum())
            if n < len(part):
                self._left_over = part.between(n, len(part))
                self._n_used += n
            parts.append(part.between(0, n))
            n_positions += parts[-1].n_positions
            n_documents += len(parts[-1].documents.unique())
            if n_positions >= capacity:
                break
            if bar is not None and bar.update(n_positions - bar.n):  # about to be drawn anew
                bar.total = min(self._buffer_tokens, self._of_corpus(n_positions, n_documents))
                forecast.tell(n_positions, bar.total)
        if not parts[0].on_disk:
            parts = [SequenceColumns.joined(parts)]
        self._buffer = ShuffleBuffer(
            parts, batch_tokens=self._batch_tokens, generator=self._generator
        )
        self.judge_outliers_()
        return ended

    def _next_part(self) -> SequenceColumns | None:
        """What is left of a part, or the next one."""
        if self._left_over is not None:
            part, self._left_over = self._left_over, None
            return part
        self._n_used = 0
        return next(self._following, None)

    def _capacity(self, part: SequenceColumns) -> int:
        """How many positions the buffer takes, if others need as much memory as these."""
        if self._memory_bytes is None:
            self._memory_bytes = self._processes.least(memory_bytes(part.mask.device))
        return _positions(self._buffer_tokens, part.row_bytes, self._memory_bytes)

    def _later_epochs(self) -> Iterator[SequenceColumns]:
        """The sequences of all epochs after the current one."""
        while True:
            self.epoch += 1
            yield from self._read()

    def _read(self, *, skip: int = 0) -> Iterator[SequenceColumns]:
        """The sequences of the current epoch; without its first parts."""
        self._n_parts = skip
        for part in self._reader.epoch(self.epoch, skip=skip):
            self.n_documents = max(self.n_documents, self._reader.n_read)
            self._n_parts += 1
            yield part
        self.n_documents = max(self.n_documents, self._reader.n_read)


def buffer_positions(buffer_tokens: int, activation_bytes: int, device: torch.device) -> int:
    """How many positions a shuffle buffer takes.

    Args:
        buffer_tokens: How many it may take.
        activation_bytes: Memory of source and target of a position.
        device: Where it is.
    """
    return _positions(buffer_tokens, activation_bytes + BESIDE_BYTES, memory_bytes(device))


def _positions(buffer_tokens: int, row_bytes: int, device_bytes: int) -> int:
    return min(buffer_tokens, int(SHARE_OF_MEMORY * device_bytes / max(1, row_bytes)))


def memory_bytes(device: torch.device) -> int:
    """The memory of a device, or a usual amount if the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    try:  # not on Windows
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return _USUAL_MEMORY
