"""Pairs of source and target activations from a model that reads documents."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from clvq_lens.config import LongTexts
from clvq_lens.data.document import Item
from clvq_lens.data.reading import read
from clvq_lens.data.tokens import TokenBatch, token_batches
from clvq_lens.host.attachment import Attachment

# Documents that `first` reads at once: enough to share batches, and few enough to stop in time.
_FEWEST_AT_ONCE, _MOST_AT_ONCE = 16, 256

End = Literal["source", "target"]


@dataclass(frozen=True)
class Share:
    """Which rows of a batch these are, if several processes or parts of a step share it.

    Attributes:
        first: Number of the first row in the batch.
        step: How much the number grows from one row to the next.
        n_rows: Rows of the batch.
        n_tokens: Real tokens of the batch.
    """

    first: int
    step: int
    n_rows: int
    n_tokens: int

    @property
    def rows(self) -> slice:
        """The rows, as an index into the batch."""
        return slice(self.first, None, self.step)


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
        share_of_batch: Which rows of a batch these are; None: all of them.
    """

    source: Float[Tensor, "b pos d_source"]
    target: Float[Tensor, "b pos d_target"]
    tokens: Int[Tensor, "b pos"]
    attended: Bool[Tensor, "b pos"]
    mask: Bool[Tensor, "b pos"]
    documents: tuple[int, ...] = ()
    n_outliers: int = 0
    share_of_batch: Share | None = None

    @property
    def n_tokens(self) -> int:
        """Number of real tokens."""
        return int(self.mask.sum())

    @property
    def share(self) -> Share:
        """Which rows of their batch these are; all of them unless something else is known."""
        return self.share_of_batch or Share(0, 1, len(self.mask), self.n_tokens)

    def split(self, n: int) -> list["Activations"]:
        """The rows in as many parts, each of which knows its share of the batch."""
        if n == 1:
            return [self]
        share = self.share
        parts: list[Activations] = []
        for first in range(max(1, min(n, len(self.mask)))):  # a share may have no row
            of_batch = replace(share, first=share.first + first * share.step, step=n * share.step)
            rows = slice(first, None, n)
            parts.append(self._of_rows(rows, n_outliers=self.n_outliers, share=of_batch))
        return parts

    def of_tokens(self, start: int, stop: int) -> "Activations":
        """Some rows, if each is a single token: those outside the mask are outliers."""
        mask = self.mask[start:stop]
        n_outliers = len(mask) - int(mask.sum())
        return self._of_rows(slice(start, stop), n_outliers=n_outliers, share=None)

    def _of_rows(self, rows: slice, *, n_outliers: int, share: Share | None) -> "Activations":
        return Activations(
            self.source[rows],
            self.target[rows],
            self.tokens[rows],
            self.attended[rows],
            self.mask[rows],
            self.documents[rows],
            n_outliers,
            share,
        )

    def of_real_tokens(self, end: End) -> Float[Tensor, "n d"]:
        """The activations of real tokens at the source or the target, row by row."""
        activations = self.source if end == "source" else self.target
        return activations[self.mask]


class ActivationSource:
    """Runs a model on documents and gives the activations at two hook points.

    Args:
        attachment: Where to read, and which tokens are outliers.
        long_texts: What to do with a text beyond the context.
    """

    def __init__(self, attachment: Attachment, *, long_texts: LongTexts) -> None:
        self.host = attachment.host
        self.source, self.target = attachment.source, attachment.target
        self._quantizer = attachment.quantizer
        self._long_texts: LongTexts = long_texts

    def batches(
        self, documents: Iterable[Item], *, generator: torch.Generator | None = None
    ) -> Iterator[Activations]:
        """The activations of all documents, ready for use.

        Args:
            documents: The documents, in the order in which they are read.
            generator: Decides the order of batches, as for `token_batches`: a caller that may stop
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

        Documents of similar length share a batch, so stopping anywhere would favor some lengths.
        A few documents at a time are read to their end, unless they are very long.

        Args:
            documents: The documents, in random order.
            n_tokens: Real tokens after which it ends.
            generator: Decides the order of batches.
        """
        documents = iter(documents)
        n_documents, n_read = 0, 0
        n_more = _FEWEST_AT_ONCE
        while n_read < n_tokens and (following := list(islice(documents, n_more))):
            for batch in self.batches(following, generator=generator):
                yield batch
                n_read += batch.n_tokens
                if n_read >= n_tokens:
                    return
            n_documents += len(following)
            # Half, because the documents to come may be longer than those read so far.
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
        activations = read(self.host, batch, [self.source, self.target])
        source = activations[self.source]
        tokens, attended = batch.on(source.device)
        return Activations(
            source,
            # The layers of a model may lie on several devices, and source and target meet here.
            activations[self.target].to(source.device),
            tokens,
            attended,
            batch.mask.to(source.device),
            batch.documents,
        )

    def ready(self, batch: Activations) -> Activations:
        """Activations in float32 where the quantizer is, without outliers in the mask."""
        device = self._quantizer.device  # those of a store are on the CPU
        source, target = batch.source.to(device).float(), batch.target.to(device).float()
        batch = replace(
            batch,
            tokens=batch.tokens.to(device),
            attended=batch.attended.to(device),
            mask=batch.mask.to(device),
        )
        # Judged here and not in `of`: a fit measures the limit after its buffer was filled.
        too_long = self._quantizer.outliers(source, target) & batch.mask
        mask = batch.mask & ~too_long
        return replace(
            batch, source=source, target=target, mask=mask, n_outliers=int(too_long.sum())
        )
