"""The documents of a fit: a part held out, the others streamed as shuffled activations."""

import logging
import math
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from clvq_lens.config import MOST_TOKENS, FitConfig
from clvq_lens.data.activations import Activations, ActivationSource, End
from clvq_lens.data.document_order import READ_PER_TOKEN, DocumentOrder
from clvq_lens.data.documents import Data, open_documents
from clvq_lens.data.sequence_reader import ModelReader, SequenceReader
from clvq_lens.data.split import Split
from clvq_lens.data.store.estimate import expected
from clvq_lens.data.store.store_reader import StoreReader
from clvq_lens.data.store.stored_activations import StoredActivations
from clvq_lens.data.stream import ShuffledStream, buffer_positions
from clvq_lens.data.tokens import TokenBatch, check_ids, require_real, token_batches
from clvq_lens.errors import PathError
from clvq_lens.host.attachment import Attachment
from clvq_lens.processes import ALONE, Processes
from clvq_lens.stats.reservoir import Reservoir
from clvq_lens.training.kept_data import kept_data
from clvq_lens.training.memory import HELD_OUT_TOKENS, initial_tokens

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HeldOutBatches:
    """A fair draw of held-out documents.

    Attributes:
        batches: Activations of the documents.
        n_documents: How many documents were drawn.
    """

    batches: list[Activations]
    n_documents: int


class TrainingData:
    """What a quantizer is trained on, read as often as needed; the model reads each token once.

    What the model has read stays in memory or, where that is too small, in a temporary folder.

    Args:
        attachment: Where to read. Which tokens are outliers may change while it is fitted.
        data: Documents.
        config: How many tokens to train on, how to read them, and the seed.
        processes: Who shares every batch.
        progress: Whether to show a progress bar while the buffer is filled.
    """

    def __init__(
        self,
        attachment: Attachment,
        data: Data,
        config: FitConfig,
        *,
        processes: Processes = ALONE,
        progress: bool,
    ) -> None:
        self._processes = processes
        self._host, self._config, self._progress = attachment.host, config, progress
        self._quantizer = quantizer = attachment.quantizer
        self.generator = torch.Generator(quantizer.device).manual_seed(config.seed)
        """Decides all that is random in a fit."""
        self._attachment, self._documents = attachment, open_documents(data)
        check_ids(attachment.host, self._documents)
        self._split = Split(self._documents, config.held_out_fraction)
        self.n_initial = processes.least(initial_tokens(quantizer))
        """Tokens that are read to start the codebook; half of them are used."""
        self.n_tokens = config.n_tokens or MOST_TOKENS
        """Tokens to train on, repetitions counted; `open` lowers it if the data are small."""
        self._most_tokens = self.n_tokens
        # An endless corpus is represented by its beginning, many times as much as is needed.
        self._most_read = READ_PER_TOKEN * self._most_tokens
        # The first draw of all: the same seed gives the same order, whatever is fitted.
        self._seed = _draw_seed(self.generator)
        self._activations = ActivationSource(attachment, long_texts=config.long_texts)
        self._store = data if isinstance(data, StoredActivations) else None
        if self._store is not None:
            self._store.require(attachment.host, [attachment.source, attachment.target])

    def open(self, *, whole_sequences: bool) -> ShuffledStream:
        """The training documents as an endless stream of batches.

        Args:
            whole_sequences: Whether a batch consists of sequences or of single tokens.
        """
        if self._store is None and self._exceeds_memory():
            self._keep()
        stream = self._stream(whole_sequences=whole_sequences)
        if self._store is None and not stream.fits and self._keep():
            # There was more of it than its first documents let expect.
            stream = self._stream(whole_sequences=whole_sequences)
        self.n_tokens = self._config.tokens_for(stream.n_tokens)
        return stream

    def _stream(self, *, whole_sequences: bool) -> ShuffledStream:
        if whole_sequences and self._store is not None:
            self._store.require_sequences()
        return ShuffledStream(
            self._reader(held_out=False, special=whole_sequences),
            self._activations,
            buffer_tokens=self._config.buffer_tokens,
            batch_tokens=self._config.batch_tokens,
            whole_sequences=whole_sequences,
            generator=self.generator,
            processes=self._processes,
            progress=self._progress,
        )

    def _exceeds_memory(self) -> bool:
        """Whether the activations of all documents are more than the buffer takes, as it seems."""
        there = expected(
            self._host,
            self._documents,
            n_tokens=self._most_tokens,
            long_texts=self._config.long_texts,
        )
        width = self._quantizer.d_source + self._quantizer.d_target
        device = self._host.device_of(self._activations.source)
        return there.n_positions > buffer_positions(
            self._config.buffer_tokens, width * self._host.dtype.itemsize, device
        )

    def _keep(self) -> bool:
        """Has the model read all documents into a temporary folder; False if it is too small."""
        folder = Path(tempfile.mkdtemp(prefix="clvq-lens-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        try:
            self._store = kept_data(
                self._attachment, self._documents, self._config, folder, progress=self._progress
            )
        except PathError as error:
            _log.warning(
                "The model reads the documents again in every pass over them, because its "
                "activations cannot be kept: %s Set TMPDIR to a folder on a larger disk.",
                error,
            )
            return False
        return True

    def _reader(self, *, held_out: bool, special: bool) -> SequenceReader:
        """Reads the documents of one side of the split, from the model or from disk."""
        if self._store is None:
            order = self._order(held_out=held_out)
            return ModelReader(
                self._activations,
                order,
                special=special,
                most_tokens=self._most_tokens,
                generator=self.generator,
            )
        protocol = self._host.protocol
        return StoreReader(
            self._store,
            protocol.portable(self._activations.source),
            protocol.portable(self._activations.target),
            self._split.is_held_out if held_out else self._split.is_trained_on,
            self._activations.ready,
            seed=self._seed,
            batch_tokens=self._config.batch_tokens,
        )

    def _order(self, *, held_out: bool) -> DocumentOrder:
        """The documents of one side of the split, in random order."""
        if not held_out:
            return DocumentOrder(self._split.training, seed=self._seed, most_read=self._most_read)
        most_read = round(self._config.held_out_fraction * self._most_read)
        return DocumentOrder(self._split.held_out, seed=self._seed, most_read=most_read)

    def once(self, stream: ShuffledStream) -> Iterator[Activations]:
        """All training tokens one time, shared by all processes.

        If they are more than the fit reads, it is a fair draw.
        """
        return stream.once(self.n_tokens, shared=True)

    def tokens(self) -> Iterator[TokenBatch]:
        """The training documents as tokens, without running the model; all of them."""
        documents, long_texts = self._order(held_out=False).epoch(0), self._config.long_texts
        return token_batches(self._host, documents, long_texts=long_texts, generator=self.generator)

    def held_out(self) -> HeldOutBatches:
        """Documents that are not trained on, as many as validation needs."""
        reader = self._reader(held_out=True, special=True)
        fraction = self._config.held_out_fraction
        # As large a part as it is of the documents.
        n_tokens = math.ceil(self._most_tokens * fraction / (1 - fraction))
        batches: list[Activations] = []
        documents: set[int] = set()
        for batch in reader.first(min(n_tokens, HELD_OUT_TOKENS)):
            if batch.n_tokens:
                batches.append(batch)
                documents.update(batch.documents)
        return HeldOutBatches(batches, len(documents))


def sample_of(
    batches: Iterable[Activations], size: int, *ends: End, generator: torch.Generator
) -> tuple[Float[Tensor, "n _"], ...]:
    """Activations of some real tokens, each token as likely as any other.

    Args:
        batches: Read to their end.
        size: How many tokens, at most.
        *ends: "source", "target" or both; what is not named takes no memory.
        generator: Draws the tokens.

    Returns:
        One row for each token, at each of the ends.

    Raises:
        EmptyCorpusError: If there is no real token.
    """
    reservoir = Reservoir(size, generator=generator)
    for batch in batches:
        reservoir.add_(*[batch.of_real_tokens(end) for end in ends])
    require_real(reservoir.n_seen)
    return reservoir.sample()


def _draw_seed(generator: torch.Generator) -> int:
    return int(torch.randint(2**62, (), generator=generator, device=generator.device))
