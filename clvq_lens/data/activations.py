"""Pairs of source and target activations from a model that reads documents."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from clvq_lens.config import LongTexts
from clvq_lens.data.document import Item
from clvq_lens.data.reading import read
from clvq_lens.data.tokens import TokenBatch, token_batches
from clvq_lens.host.attachment import Attachment

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
        mask_on_cpu: The mask, where it is known without waiting for the device.
    """

    source: Float[Tensor, "b pos d_source"]
    target: Float[Tensor, "b pos d_target"]
    tokens: Int[Tensor, "b pos"]
    attended: Bool[Tensor, "b pos"]
    mask: Bool[Tensor, "b pos"]
    documents: tuple[int, ...] = ()
    n_outliers: int = 0
    share_of_batch: Share | None = None
    mask_on_cpu: Bool[Tensor, "b pos"] | None = None

    @cached_property
    def n_tokens(self) -> int:
        """Number of real tokens."""
        return int(self._known_mask.sum())

    @cached_property
    def real(self) -> Int[Tensor, " n"]:
        """Where real tokens are, if positions are counted from sequence to sequence."""
        rows = self._known_mask.flatten().nonzero().squeeze(1)
        return rows.to(self.mask.device, non_blocking=True)

    @property
    def _known_mask(self) -> Bool[Tensor, "b pos"]:
        """The mask on the CPU if it is there, where nobody has to wait for it."""
        return self.mask if self.mask_on_cpu is None else self.mask_on_cpu

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
        """Some rows, if each is a single token."""
        return self._of_rows(slice(start, stop), n_outliers=0, share=None)

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
            None if self.mask_on_cpu is None else self.mask_on_cpu[rows],
        )

    def of_real_tokens(self, end: End) -> Float[Tensor, "n d"]:
        """The activations of real tokens at the source or the target, row by row."""
        return self.at_real_tokens(self.source if end == "source" else self.target)

    def at_real_tokens(self, values: Shaped[Tensor, "b pos *d"]) -> Shaped[Tensor, "n *d"]:
        """Those of some values that belong to real tokens."""
        rows = values.flatten(0, 1)
        if self.n_tokens == len(rows):
            return rows
        return rows.index_select(0, self.real.to(rows.device))


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
        self,
        documents: Iterable[Item],
        *,
        n_tokens: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Iterator[Activations]:
        """The activations of all documents, ready for use.

        Args:
            documents: The documents, in the order in which they are read.
            n_tokens: Real tokens after which no more are read; None: all are.
            generator: Decides the order of batches, as for `token_batches`: a caller that may stop
                before the end needs one.

        Raises:
            NonFiniteError: If the model produces NaN or infinity.
            TextTooLongError: If a text is too long and ``long_texts`` is "error".
        """
        raw = self.raw_batches(documents, n_tokens=n_tokens, generator=generator)
        return map(self.ready, raw)

    def raw_batches(
        self,
        documents: Iterable[Item],
        *,
        n_tokens: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Iterator[Activations]:
        """The same in the model's dtype, with outliers in the mask: for storing."""
        tokens = token_batches(
            self.host,
            documents,
            long_texts=self._long_texts,
            n_tokens=n_tokens,
            generator=generator,
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
        batch = self.in_float(batch)
        # Judged here and not in `of`: a fit measures the limit after its buffer was filled.
        too_long = self.are_outliers(batch.source, batch.target) & batch.mask
        mask, n_outliers = batch.mask & ~too_long, int(too_long.sum())
        return replace(batch, mask=mask, n_outliers=n_outliers, mask_on_cpu=None)

    def in_float(self, batch: Activations) -> Activations:
        """Activations in float32 where the quantizer is."""
        device = self._quantizer.device  # those of a store are on the CPU
        return replace(
            batch,
            source=batch.source.to(device).float(),
            target=batch.target.to(device).float(),
            tokens=batch.tokens.to(device),
            attended=batch.attended.to(device, non_blocking=True),
            mask=batch.mask.to(device, non_blocking=True),
        )

    @property
    def knows_outliers(self) -> bool:
        """Whether there is a length from which on an activation is an outlier."""
        limits = torch.stack([self._quantizer.max_source_norm, self._quantizer.max_target_norm])
        return bool(limits.isfinite().any())

    def are_outliers(
        self, source: Float[Tensor, "*n d_source"], target: Float[Tensor, "*n d_target"]
    ) -> Bool[Tensor, "*n"]:
        """Which tokens the quantizer leaves out, because an activation is too long."""
        device = self._quantizer.device
        return self._quantizer.outliers(source.to(device).float(), target.to(device).float())
