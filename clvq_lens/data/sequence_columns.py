"""Activations of sequences in columns: one sequence after the other, without padding."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from clvq_lens.data.activations import Activations


@dataclass(frozen=True)
class SequenceColumns:
    """Some sequences of a block of activations.

    Attributes:
        source: Residual stream at the source, in the dtype of the model or of the disk.
        target: Residual stream at the target.
        tokens: Token ids.
        mask: True on real tokens.
        starts: Where each sequence begins in these columns. It is on the CPU, as all that follows.
        lengths: Positions of each sequence.
        documents: Number of the document of each sequence.
        on_disk: Whether the columns are files that are mapped into memory.
    """

    source: Float[Tensor, "n d_source"]
    target: Float[Tensor, "n d_target"]
    tokens: Int[Tensor, " n"]
    mask: Bool[Tensor, " n"]
    starts: Int[Tensor, " s"]
    lengths: Int[Tensor, " s"]
    documents: Int[Tensor, " s"]
    on_disk: bool = False

    @classmethod
    def of(cls, batch: Activations, *, special: bool) -> "SequenceColumns":
        """The sequences of a batch that have a real token.

        Args:
            batch: Activations with padding.
            special: Whether to keep special tokens, which a decoder of sequences attends to.
        """
        has_real = batch.mask.any(1)
        kept = (batch.attended if special else batch.mask) & has_real.unsqueeze(1)
        has_real = has_real.cpu()
        lengths = kept.sum(1).cpu()[has_real]
        return cls(
            # Indexing by a mask copies, so that the whole batch need not stay in memory.
            source=batch.source[kept],
            target=batch.target[kept],
            tokens=batch.tokens[kept],
            mask=batch.mask[kept],
            starts=lengths.cumsum(0) - lengths,
            lengths=lengths,
            documents=torch.tensor(batch.documents, dtype=torch.long)[has_real],
        )

    @classmethod
    def joined(cls, parts: Sequence["SequenceColumns"]) -> "SequenceColumns":
        """The sequences of all parts, in one block."""
        starts: list[Tensor] = []
        n_rows = 0
        for part in parts:
            starts.append(part.starts + n_rows)
            n_rows += len(part.mask)
        return cls(
            source=torch.cat([part.source for part in parts]),
            target=torch.cat([part.target for part in parts]),
            tokens=torch.cat([part.tokens for part in parts]),
            mask=torch.cat([part.mask for part in parts]),
            starts=torch.cat(starts),
            lengths=torch.cat([part.lengths for part in parts]),
            documents=torch.cat([part.documents for part in parts]),
        )

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def n_positions(self) -> int:
        """Positions of all sequences together."""
        return int(self.lengths.sum())

    @property
    def row_bytes(self) -> int:
        """Memory that a position takes."""
        columns = (self.source, self.target, self.tokens, self.mask)
        return sum(column[:1].nbytes for column in columns)

    def between(self, start: int, stop: int) -> "SequenceColumns":
        """The sequences from one index to another, in the same columns."""
        return self.chosen(slice(start, stop))

    def chosen(self, index: slice | Int[Tensor, " c"] | Bool[Tensor, " s"]) -> "SequenceColumns":
        """Some of the sequences, in the same columns."""
        return replace(
            self,
            starts=self.starts[index],
            lengths=self.lengths[index],
            documents=self.documents[index],
        )
