"""Activations of sequences in columns: one sequence after the other, without padding."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from clvq_lens.data.activations import Activations


@dataclass(frozen=True)
class Sequences:
    """Some sequences, one after the other.

    Attributes:
        source: Residual stream at the source, in the model's dtype.
        target: Residual stream at the target.
        tokens: Token ids.
        mask: True on real tokens.
        lengths: Positions of each sequence, on the CPU.
        documents: Number of the document of each sequence, on the CPU.
    """

    source: Float[Tensor, "n d_source"]
    target: Float[Tensor, "n d_target"]
    tokens: Int[Tensor, " n"]
    mask: Bool[Tensor, " n"]
    lengths: Int[Tensor, " s"]
    documents: Int[Tensor, " s"]

    @classmethod
    def of(cls, batch: Activations, *, special: bool) -> "Sequences":
        """The sequences of a batch that have a real token.

        Args:
            batch: Activations with padding.
            special: Whether to keep special tokens, which a decoder of sequences attends to.
        """
        has_real = batch.mask.any(1)
        kept = (batch.attended if special else batch.mask) & has_real.unsqueeze(1)
        has_real = has_real.cpu()
        return cls(
            # Indexing by a mask copies, so that the whole batch need not stay in memory.
            source=batch.source[kept],
            target=batch.target[kept],
            tokens=batch.tokens[kept],
            mask=batch.mask[kept],
            lengths=kept.sum(1).cpu()[has_real],
            documents=torch.tensor(batch.documents, dtype=torch.long)[has_real],
        )

    @classmethod
    def joined(cls, parts: Sequence["Sequences"]) -> "Sequences":
        """The sequences of all parts, in their order."""
        return cls(
            source=torch.cat([part.source for part in parts]),
            target=torch.cat([part.target for part in parts]),
            tokens=torch.cat([part.tokens for part in parts]),
            mask=torch.cat([part.mask for part in parts]),
            lengths=torch.cat([part.lengths for part in parts]),
            documents=torch.cat([part.documents for part in parts]),
        )

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def n_positions(self) -> int:
        """Positions of all sequences together."""
        return len(self.mask)

    @property
    def size_bytes(self) -> int:
        """Memory that they take."""
        columns = (self.source, self.target, self.tokens, self.mask)
        return sum(column.nbytes for column in columns)

    def between(self, start: int, stop: int) -> "Sequences":
        """The sequences from one index to another, in the memory of all of them."""
        first = int(self.lengths[:start].sum())
        last = first + int(self.lengths[start:stop].sum())
        return Sequences(
            source=self.source[first:last],
            target=self.target[first:last],
            tokens=self.tokens[first:last],
            mask=self.mask[first:last],
            lengths=self.lengths[start:stop],
            documents=self.documents[start:stop],
        )
