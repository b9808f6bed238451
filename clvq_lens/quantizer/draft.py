"""Draft: the codes of a pass while edits change them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from clvq_lens.errors import CodeRangeError
from clvq_lens.quantizer.codebook import Codebook


@dataclass(frozen=True)
class Draft:
    """Codes and code vectors of all positions of a pass. A change gives a new draft.

    Attributes:
        encoded: Encoder output.
        codes: The code of each position.
        vectors: Vectors that the decoder reads: rows of the codebook, or what took their place.
        banned: Codes that must not be chosen at a position; None: all may be chosen.
        averaged: True where the mean over codes replaced a code; None: nowhere.
        steering: What is added to the reconstruction; None: nothing.
        named: True at positions that an edit names or a hook changed, where the target may change
            even if the token is not real; None: nowhere.
    """

    encoded: Float[Tensor, "b pos d_code"]
    codes: Int[Tensor, "b pos"]
    vectors: Float[Tensor, "b pos d_code"]
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

    def with_mean(self, mean: Float[Tensor, " d_code"], where: Bool[Tensor, "b pos"]) -> "Draft":
        """The mean code vector at some positions, whose codes stay as they are."""
        vectors = torch.where(where.unsqueeze(-1), mean, self.vectors)
        averaged = where if self.averaged is None else self.averaged | where
        return replace(self, vectors=vectors, averaged=averaged)

    def naming(self, where: Bool[Tensor, "b pos"]) -> "Draft":
        """Names positions, so that the target may change there whatever the token is."""
        return replace(self, named=where if self.named is None else self.named | where)

    def banning(self, banned: Bool[Tensor, " k"], where: Bool[Tensor, "b pos"]) -> "Draft":
        """Bans codes at some positions for later choices; the codes that are there stay."""
        everywhere = where.unsqueeze(-1) & banned
        return replace(self, banned=everywhere if self.banned is None else self.banned | everywhere)

    def allowed(
        self, where: Bool[Tensor, "b pos"], weights: Float[Tensor, " k"]
    ) -> Float[Tensor, "n k"]:
        """Weights of codes at some positions; a code that is banned there has weight 0."""
        weights = weights.expand(int(where.sum()), -1)
        return weights if self.banned is None else weights.masked_fill(self.banned[where], 0.0)

    def without(
        self, banned: Bool[Tensor, " k"], where: Bool[Tensor, "b pos"], codebook: Codebook
    ) -> "Draft":
        """Bans codes at some positions, where the nearest other code replaces them.

        Raises:
            CodeRangeError: If that leaves a position without any code to choose.
        """
        draft = self.banning(banned, where)
        assert draft.banned is not None
        losing = where & banned[self.codes]  # positions that have a banned code
        forbidden = draft.banned[losing]
        if forbidden.all(1).any():
            raise CodeRangeError(
                "The edits leave no code to choose at some position. Leave at least one."
            )
        distances = codebook.distances(self.encoded[losing])
        nearest = distances.masked_fill(forbidden, torch.inf).argmin(1)
        return draft.with_codes(self.codes.masked_scatter(losing, nearest), losing, codebook)

    def steered(
        self, direction: Float[Tensor, " d_target"], where: Bool[Tensor, "b pos"]
    ) -> "Draft":
        """Adds a direction to the reconstruction at some positions."""
        added = where.unsqueeze(-1) * direction
        return replace(self, steering=added if self.steering is None else self.steering + added)

    def take(self, rows: Int[Tensor, " r"]) -> "Draft":
        """The draft of some sequences."""
        return self._with_each(lambda tensor: tensor[rows])

    def cut(self, start: int | None, end: int | None) -> "Draft":
        """The draft of some positions."""
        return self._with_each(lambda tensor: tensor[:, start:end])

    def _with_each(self, change: Callable[[Tensor], Tensor]) -> "Draft":
        """The same change to every tensor that is there."""
        tensors: dict[str, Tensor] = {}
        for field in fields(self):
            tensor = getattr(self, field.name)
            if tensor is not None:
                tensors[field.name] = change(tensor)
        return Draft(**tensors)

    def first_difference(self, other: "Draft") -> int:
        """The first position that differs in any sequence; the last one if none differs."""
        columns = self._differs(other).any(0)
        columns[-1] = True  # so that there is always something left to decode
        return int(columns.int().argmax())

    def differs_from(self, other: "Draft") -> Bool[Tensor, " b"]:
        """Which sequences get another reconstruction from this draft than from the other."""
        return self._differs(other).any(1)

    def _differs(self, other: "Draft") -> Bool[Tensor, "b pos"]:
        """Where the decoder reads other vectors, or something else is added to its output."""
        differs = (self.vectors != other.vectors).any(-1)
        if self.steering is not other.steering:
            zero = self.vectors.new_zeros(())
            mine = zero if self.steering is None else self.steering
            theirs = zero if other.steering is None else other.steering
            differs = differs | (mine != theirs).any(-1)
        return differs


def joined(drafts: Sequence[Draft]) -> Draft:
    """Several drafts as one, sequence after sequence."""
    joined_fields: dict[str, Tensor] = {}
    for field in fields(Draft):
        tensors = [getattr(draft, field.name) for draft in drafts]
        known = [tensor for tensor in tensors if tensor is not None]
        if not known:
            continue
        for index, draft in enumerate(drafts):
            if tensors[index] is None:  # in every field, zero or False means "nothing there"
                tensors[index] = known[0].new_zeros(len(draft.codes), *known[0].shape[1:])
        joined_fields[field.name] = torch.cat(tensors)
    return Draft(**joined_fields)


@dataclass(frozen=True)
class Quantized:
    """Source activations after the hook points up to ``hook_quantized``.

    Attributes:
        codes: Nearest codes, before any edit or hook.
        clean_encoded: Encoder output, before any hook.
        draft: Encoder output, codes and code vectors, as edits and hooks left them.
        changed: Whether an edit or a hook changed anything, or a gradient is recorded.
    """

    codes: Int[Tensor, "b pos"]
    clean_encoded: Float[Tensor, "b pos d_code"]
    draft: Draft
    changed: bool
