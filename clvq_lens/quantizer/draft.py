"""Draft: the codes of a pass while edits are at work on them."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from clvq_lens.errors import CodeRangeError
from clvq_lens.quantizer.codebook import Codebook


@dataclass(frozen=True)
class Draft:
    """Codes and code vectors of every position; a change gives a new draft.

    Attributes:
        encoded: Encoder output.
        codes: The code of each position.
        vectors: What the decoder reads: the code's row of the codebook, or what took its place.
        banned: Codes that may not take over at a position; None: all may.
        averaged: Where the mean over codes took a code's place; None: nowhere.
        steering: Added to the reconstruction; None: nothing.
        named: Positions that an edit names or a hook changed, where the target may change even if
            the token is not real; None: nowhere.
    """

    encoded: Float[Tensor, "b pos d_source"]
    codes: Int[Tensor, "b pos"]
    vectors: Float[Tensor, "b pos d_source"]
    banned: Bool[Tensor, "b pos k"] | None = None
    averaged: Bool[Tensor, "b pos"] | None = None
    steering: Float[Tensor, "b pos d_target"] | None = None
    named: Bool[Tensor, "b pos"] | None = None

    def with_codes(
        self, codes: Int[Tensor, "b pos"], where: Bool[Tensor, "b pos"], codebook: Codebook
    ) -> "Draft":
        """Other codes at some positions, with the vectors that belong to them."""
        codes = torch.where(where, codes, self.codes)
        vectors = torch.where(where.unsqueeze(-1), codebook(codes), self.vectors)
        averaged = None if self.averaged is None else self.averaged & ~where
        return replace(self, codes=codes, vectors=vectors, averaged=averaged)

    def with_mean(self, mean: Float[Tensor, " d_source"], where: Bool[Tensor, "b pos"]) -> "Draft":
        """The mean code vector at some positions; their codes stay."""
        vectors = torch.where(where.unsqueeze(-1), mean, self.vectors)
        averaged = where if self.averaged is None else self.averaged | where
        return replace(self, vectors=vectors, averaged=averaged)

    def naming(self, where: Bool[Tensor, "b pos"]) -> "Draft":
        """Names positions, where the target may change whatever the token is."""
        return replace(self, named=where if self.named is None else self.named | where)

    def banning(self, banned: Bool[Tensor, " k"], where: Bool[Tensor, "b pos"]) -> "Draft":
        """Bans codes at some positions, from now on; what is there stays."""
        everywhere = where.unsqueeze(-1) & banned
        return replace(self, banned=everywhere if self.banned is None else self.banned | everywhere)

    def allowed(
        self, where: Bool[Tensor, "b pos"], weights: Float[Tensor, " k"]
    ) -> Float[Tensor, "n k"]:
        """Weights of codes at some positions, zero for those that are banned there."""
        weights = weights.expand(int(where.sum()), -1)
        return weights if self.banned is None else weights.masked_fill(self.banned[where], 0.0)

    def without(
        self, banned: Bool[Tensor, " k"], where: Bool[Tensor, "b pos"], codebook: Codebook
    ) -> "Draft":
        """Bans codes at some positions, where the nearest other one takes over.

        Raises:
            CodeRangeError: If that leaves a position without any code to choose.
        """
        losing, draft = where & banned[self.codes], self.banning(banned, where)
        assert draft.banned is not None
        gone = draft.banned[losing]
        if gone.all(1).any():
            raise CodeRangeError(
                "The edits leave no code to choose at some position. Leave at least one."
            )
        distances = codebook.distances(self.encoded[losing])
        nearest = distances.masked_fill(gone, torch.inf).argmin(1)
        return draft.with_codes(self.codes.masked_scatter(losing, nearest), losing, codebook)

    def steered(
        self, direction: Float[Tensor, " d_target"], where: Bool[Tensor, "b pos"]
    ) -> "Draft":
        """A direction added to the reconstruction at some positions."""
        added = where.unsqueeze(-1) * direction
        return replace(self, steering=added if self.steering is None else self.steering + added)

    def take(self, rows: Int[Tensor, " r"]) -> "Draft":
        """Some of its sequences."""
        parts = (getattr(self, f.name) for f in fields(self))
        return Draft(*(None if part is None else part[rows] for part in parts))  # type: ignore

    def cut(self, start: int | None, end: int | None) -> "Draft":
        """Some of its positions."""
        parts = (getattr(self, f.name) for f in fields(self))
        return Draft(*(None if part is None else part[:, start:end] for part in parts))  # type: ignore

    def first_difference(self, other: "Draft") -> int:
        """The first position where any sequence would be treated differently, or the last one."""
        columns = self._differs(other).any(0)
        columns[-1] = True
        return int(columns.int().argmax())

    def differs_from(self, other: "Draft") -> Bool[Tensor, " b"]:
        """Which sequences the decoder or the steering would treat differently."""
        return self._differs(other).any(1)

    def _differs(self, other: "Draft") -> Bool[Tensor, "b pos"]:
        differs = (self.vectors != other.vectors).any(-1)
        if self.steering is not other.steering:
            zero = self.vectors.new_zeros(())
            mine = zero if self.steering is None else self.steering
            theirs = zero if other.steering is None else other.steering
            differs = differs | (mine != theirs).any(-1)
        return differs


def joined(drafts: Sequence[Draft]) -> Draft:
    """Several drafts as one, sequence after sequence."""
    parts: dict[str, Tensor | None] = {}
    for f in fields(Draft):
        values = [getattr(draft, f.name) for draft in drafts]
        known = next((value for value in values if value is not None), None)
        if known is None:
            parts[f.name] = None
            continue
        blanks = (known.new_zeros(len(draft.codes), *known.shape[1:]) for draft in drafts)
        pairs = zip(values, blanks, strict=True)
        parts[f.name] = torch.cat([blank if value is None else value for value, blank in pairs])
    return Draft(**parts)  # type: ignore[arg-type]
