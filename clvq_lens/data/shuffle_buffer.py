"""Sequences in memory, or in files mapped into it, and batches of them in random order."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from clvq_lens.data.activations import Activations
from clvq_lens.data.sequence_columns import SequenceColumns

ALL = slice(None)
_JUDGED_BYTES = 2**25  # of activations that are judged at once


class ShuffleBuffer:
    """Sequences from which batches are drawn.

    Args:
        parts: The sequences, in one block or in some.
        batch_tokens: Positions of a batch, about.
        generator: Decides every order.
    """

    def __init__(
        self, parts: Sequence[SequenceColumns], *, batch_tokens: int, generator: torch.Generator
    ) -> None:
        self.parts = list(parts)
        self._batch_tokens, self._generator = batch_tokens, generator
        sizes = torch.tensor([len(part.mask) for part in parts])
        self._ends = sizes.cumsum(0)
        first_rows = (self._ends - sizes).tolist()
        starts = [part.starts + row for part, row in zip(parts, first_rows, strict=True)]
        self._first_rows = first_rows
        self._starts = torch.cat(starts)
        self._lengths = torch.cat([part.lengths for part in parts])
        self._documents = torch.cat([part.documents for part in parts])
        # On the CPU, so that nobody has to wait for a device to know how many tokens a batch has.
        self._real = torch.cat([part.mask.cpu() for part in parts])
        self._mask = self._real

    def leave_out_(self, are_outliers: Callable[[Tensor, Tensor], Bool[Tensor, " n"]]) -> None:
        """Takes outliers out of the mask, all that a function finds by source and target."""
        found: list[Tensor] = []
        for part in self.parts:
            n_rows = max(1, _JUDGED_BYTES // max(1, part.row_bytes))
            pieces = zip(part.source.split(n_rows), part.target.split(n_rows), strict=True)
            found += [are_outliers(source, target).cpu() for source, target in pieces]
        self._mask = self._real & ~torch.cat(found)

    def __len__(self) -> int:
        return len(self._lengths)

    @property
    def n_positions(self) -> int:
        """Positions of all sequences together."""
        return int(self._lengths.sum())

    @property
    def row_bytes(self) -> int:
        """Memory that a position takes."""
        return self.parts[0].row_bytes

    @property
    def n_tokens(self) -> int:
        """Number of real tokens."""
        return self.n_real(torch.arange(len(self)))

    def n_real(self, group: Int[Tensor, " b"]) -> int:
        """Number of real tokens of some sequences."""
        return int(self._mask[self._rows(group)].sum())

    @property
    def n_documents(self) -> int:
        """Number of documents that they come from."""
        return len(self._documents.unique())

    def draw_sequences(self, n_tokens: int | None = None) -> list[Int[Tensor, " b"]]:
        """Batches of whole sequences; those of similar length share one.

        Args:
            n_tokens: Real tokens after which no more sequences are drawn; None: all are.

        Returns:
            What `sequences` makes each batch of, in random order.
        """
        drawn = self._permutation(len(self))
        if n_tokens is not None:
            drawn = drawn[: self._n_sequences_of(drawn, n_tokens)]
        groups = self._groups(drawn)
        return [groups[index] for index in self._permutation(len(groups)).tolist()]

    def draw_tokens(self) -> list[Int[Tensor, " b"]]:
        """Batches of single real tokens in random order.

        Returns:
            What `tokens` makes each batch of.
        """
        rows = self._rows(self._permutation(len(self)))
        real = rows[self._mask[rows]]  # whole sequences have special tokens
        order = real[self._permutation(len(real))]
        # Which tokens share a batch is random, and their order in it decides nothing: those of one
        # part after the other are copied only once.
        return [self._by_part(rows) for rows in order.split(self._batch_tokens) if len(rows)]

    def sequences(self, group: Int[Tensor, " b"], share: slice = ALL) -> Activations:
        """Some sequences side by side, padded on the right.

        Args:
            group: The sequences of a batch.
            share: Those that are wanted; they are padded to the length of the whole batch.
        """
        positions = torch.arange(int(self._lengths[group].max()))
        group = group[share]
        lengths = self._lengths[group].unsqueeze(1)
        attended = positions < lengths
        rows = torch.where(attended, self._starts[group].unsqueeze(1) + positions, 0)
        documents = tuple(self._documents[group].tolist())
        # A share of the rows is not contiguous.
        places = self._places(rows.flatten().contiguous())
        mask = self._mask[rows] & attended
        n_outliers = int((self._real[rows] & attended).sum()) - int(mask.sum())
        return self._taken(places, attended, mask, documents, n_outliers)

    def tokens(self, rows: Int[Tensor, " b"]) -> Activations:
        """Some tokens, as sequences of length one."""
        everywhere = torch.ones(len(rows), 1, dtype=torch.bool)
        return self._taken(self._places(rows), everywhere, everywhere)

    # ---- which rows ----------------------------------------------------------------------------

    def _permutation(self, n: int) -> Int[Tensor, " n"]:
        return torch.randperm(n, generator=self._generator, device=self._generator.device).cpu()

    def _n_sequences_of(self, order: Int[Tensor, " s"], n_tokens: int) -> int:
        """How many sequences of an order hold so many real tokens."""
        zero = torch.zeros(1, dtype=torch.long)
        n_before = torch.cat([zero, self._mask.cumsum(0)])
        n_real = n_before[self._starts + self._lengths] - n_before[self._starts]
        return int((n_real[order].cumsum(0) < n_tokens).sum()) + 1

    def _groups(self, order: Int[Tensor, " s"]) -> list[Int[Tensor, " b"]]:
        """Sequences that share a batch."""
        # A stable sort: sequences of equal length stay in the random order in which they came.
        by_length = order[self._lengths[order].argsort(stable=True)]
        sizes: list[int] = []
        for length in self._lengths[by_length].tolist():  # each is the longest so far
            if not sizes or (sizes[-1] + 1) * length > self._batch_tokens:
                sizes.append(0)
            sizes[-1] += 1
        return list(by_length.split(sizes))

    def _rows(self, order: Int[Tensor, " s"]) -> Int[Tensor, " n"]:
        """Rows of the positions of some sequences, one sequence after the other."""
        lengths = self._lengths[order]
        ends = lengths.cumsum(0)
        first_rows = (self._starts[order] - (ends - lengths)).repeat_interleave(lengths)
        return first_rows + torch.arange(len(first_rows))

    # ---- what is in them -----------------------------------------------------------------------

    def _taken(
        self,
        places: "_Places",
        attended: Bool[Tensor, "b pos"],
        mask: Bool[Tensor, "b pos"],
        documents: tuple[int, ...] = (),
        n_outliers: int = 0,
    ) -> Activations:
        """What is in some rows; 0 where nothing is attended to."""
        columns: list[Tensor] = []
        for name in ("source", "target", "tokens"):
            column = [getattr(part, name) for part in self.parts]
            columns.append(places.taken_from(column).unflatten(0, attended.shape))
        source, target, tokens = columns
        if not attended.all():  # single tokens have no padding
            outside = (~attended).to(source.device, non_blocking=True)
            source.masked_fill_(outside.unsqueeze(-1), 0)
            target.masked_fill_(outside.unsqueeze(-1), 0)
            tokens.masked_fill_(outside, 0)
        return Activations(
            source,
            target,
            tokens.long(),
            attended.to(source.device, non_blocking=True),
            mask.to(source.device, non_blocking=True),
            documents,
            n_outliers,
            mask_on_cpu=mask,
        )

    def _places(self, rows: Int[Tensor, " n"]) -> "_Places":
        """Where some rows are, part by part: parts on disk are not copied into one block."""
        if len(self.parts) == 1:
            return _Places([rows], None)
        part_of_row = self._part_of(rows)
        place: Tensor | None = None
        if bool((part_of_row.diff() < 0).any()):
            order = _order_of(part_of_row)
            rows = rows[order]
            place = torch.empty_like(order)
            place[order] = torch.arange(len(order))
        counts = torch.bincount(part_of_row, minlength=len(self.parts)).tolist()
        of_part: list[Tensor] = []
        for part, chosen in enumerate(rows.split(counts)):
            of_part.append(chosen - self._first_rows[part])
        return _Places(of_part, place)

    def _by_part(self, rows: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
        """The rows of one part after those of the other."""
        return rows if len(self.parts) == 1 else rows[_order_of(self._part_of(rows))]

    def _part_of(self, rows: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
        """The number of the part in which each row is."""
        return torch.bucketize(rows, self._ends, right=True)


def _order_of(parts: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """The order that sorts the numbers of parts."""
    # Numpy sorts integers of 16 bits by counting them.
    small = parts.short() if int(parts.max()) < 2**15 else parts
    return torch.from_numpy(small.numpy().argsort(kind="stable"))


@dataclass(frozen=True)
class _Places:
    """Where some rows are.

    Attributes:
        of_part: Their rows in each part.
        order: Puts what was taken from one part after the other in the order of the rows; None:
            it is in that order.
    """

    of_part: list[Int[Tensor, " _"]]
    order: Int[Tensor, " n"] | None

    def taken_from(self, parts: Sequence[Tensor]) -> Tensor:
        """The rows of a column, which is in parts."""
        if len(parts) == 1:
            return parts[0].index_select(0, self.of_part[0].to(parts[0].device, non_blocking=True))
        n_rows = sum(map(len, self.of_part))
        taken = parts[0].new_empty(n_rows, *parts[0].shape[1:])
        first = 0
        for part, rows in zip(parts, self.of_part, strict=True):
            torch.index_select(part, 0, rows, out=taken[first : first + len(rows)])
            first += len(rows)
        return taken if self.order is None else taken.index_select(0, self.order)
