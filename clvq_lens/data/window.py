"""Sequences in memory, and batches of them in random order."""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from clvq_lens.data.activations import Activations
from clvq_lens.data.sequences import Sequences


class Window:
    """Sequences from which batches are drawn.

    Args:
        sequences: All that is in memory.
        batch_tokens: Positions of a batch, about.
        generator: Decides every order.
    """

    def __init__(
        self, sequences: Sequences, *, batch_tokens: int, generator: torch.Generator
    ) -> None:
        self.sequences = sequences
        self._batch_tokens, self._generator = batch_tokens, generator
        self._starts = sequences.lengths.cumsum(0) - sequences.lengths

    def __len__(self) -> int:
        return len(self.sequences)

    @property
    def n_tokens(self) -> int:
        """Number of real tokens."""
        return int(self.sequences.mask.sum())

    @property
    def n_documents(self) -> int:
        """Number of documents that they come from."""
        return len(self.sequences.documents.unique())

    def of_sequences(self, n_tokens: int | None = None) -> Iterator[Activations]:
        """Whole sequences; those of similar length share a batch, and batches come in random order.

        Args:
            n_tokens: Real tokens after which no more sequences are drawn; None: all are given.
        """
        drawn = self._permutation(len(self))
        if n_tokens is not None:
            drawn = drawn[: self._n_sequences_of(drawn, n_tokens)]
        groups = self._groups(drawn)
        for index in self._permutation(len(groups)).tolist():
            yield self._padded(groups[index])

    def of_tokens(self) -> Iterator[Activations]:
        """Single real tokens in random order, as sequences of length one."""
        rows = self._rows(self._permutation(len(self)))
        real = rows[self.sequences.mask[rows]]  # whole sequences have special tokens
        order = real[self._permutation(len(real)).to(real.device)]
        for batch in order.split(self._batch_tokens):
            everywhere = torch.ones(len(batch), 1, dtype=torch.bool, device=real.device)
            yield self._taken(batch.unsqueeze(1), everywhere, everywhere)

    def _permutation(self, n: int) -> Int[Tensor, " n"]:
        return torch.randperm(n, generator=self._generator, device=self._generator.device).cpu()

    def _n_sequences_of(self, order: Int[Tensor, " s"], n_tokens: int) -> int:
        """How many sequences of an order hold so many real tokens."""
        n_real = self._n_real()[order].cumsum(0)
        return int((n_real < n_tokens).sum()) + 1

    def _n_real(self) -> Int[Tensor, " s"]:
        """Real tokens of each sequence."""
        before = torch.cat([torch.zeros(1, dtype=torch.long), self.sequences.mask.cpu().cumsum(0)])
        return before[self._starts + self.sequences.lengths] - before[self._starts]

    def _groups(self, order: Int[Tensor, " s"]) -> list[Int[Tensor, " b"]]:
        """Sequences that share a batch."""
        # A stable sort: sequences of equal length stay in the random order in which they came.
        by_length = order[self.sequences.lengths[order].argsort(stable=True)]
        sizes: list[int] = []
        for length in self.sequences.lengths[by_length].tolist():  # the last one is the longest
            if not sizes or (sizes[-1] + 1) * length > self._batch_tokens:
                sizes.append(0)
            sizes[-1] += 1
        return list(by_length.split(sizes))

    def _rows(self, order: Int[Tensor, " s"]) -> Int[Tensor, " n"]:
        """Rows of the positions of some sequences, one sequence after the other."""
        lengths = self.sequences.lengths[order]
        within = torch.arange(int(lengths.sum())) - (lengths.cumsum(0) - lengths).repeat_interleave(
            lengths
        )
        rows = self._starts[order].repeat_interleave(lengths) + within
        return rows.to(self.sequences.mask.device)

    def _padded(self, group: Int[Tensor, " b"]) -> Activations:
        """Some sequences side by side, padded on the right."""
        lengths = self.sequences.lengths[group].unsqueeze(1)
        positions = torch.arange(int(lengths.max()))
        attended = positions < lengths
        rows = torch.where(attended, self._starts[group].unsqueeze(1) + positions, 0)
        device = self.sequences.mask.device
        rows, attended = rows.to(device), attended.to(device)
        return self._taken(rows, attended, self.sequences.mask[rows] & attended)

    def _taken(
        self,
        rows: Int[Tensor, "b pos"],
        attended: Bool[Tensor, "b pos"],
        mask: Bool[Tensor, "b pos"],
    ) -> Activations:
        """What is in some rows; 0 where nothing is attended to."""
        columns: dict[str, Tensor] = {}
        for name in ("source", "target", "tokens"):
            column = getattr(self.sequences, name)
            taken = column.index_select(0, rows.flatten()).unflatten(0, rows.shape)
            outside = ~attended.view(*rows.shape, *[1] * (column.ndim - 1))
            columns[name] = taken.masked_fill_(outside, 0)
        return Activations(**columns, attended=attended, mask=mask)
