"""Draft: the codes of a pass while edits are at work on them."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from clvq_lens.errors import CodeRangeError
from clvq_lens.quantizer.codebook import Codebook, squared_distances


@dataclass(frozen=True)
class Draft:
    """Codes and code vectors of every position; a change gives a new draft.

    Attributes:
        encoded: Encoder output.
        codes: The code of each position.
        vectors: What the decoder reads: the code's row of the codebook, or what took its place.
        banned: Codes that may not take over at a position; None: all may.
        steering: Added to the reconstruction; None: nothing.
    """

    encoded: Float[Tensor, "b pos d_source"]
    codes: Int[Tensor, "b pos"]
    vectors: Float[Tensor, "b pos d_source"]
    banned: Bool[Tensor, "b pos k"] | None = None
    steering: Float[Tensor, "b pos d_target"] | None = None

    def with_codes(
        self, codes: Int[Tensor, "b pos"], where: Bool[Tensor, "b pos"], codebook: Codebook
    ) -> "Draft":
        """Other codes at some positions, with the vectors that belong to them."""
        codes = torch.where(where, codes, self.codes)
        return replace(self, codes=codes).with_vectors(codebook(codes), where)

    def with_vectors(
        self, vectors: Float[Tensor, "*b d_source"], where: Bool[Tensor, "b pos"]
    ) -> "Draft":
        """Other vectors at some positions; their codes stay."""
        return replace(self, vectors=torch.where(where.unsqueeze(-1), vectors, self.vectors))

    def without(
        self, banned: Bool[Tensor, " k"], where: Bool[Tensor, "b pos"], codebook: Codebook
    ) -> "Draft":
        """Bans codes at some positions, for later edits too; the nearest other one takes over.

        Raises:
            CodeRangeError: If that leaves a position without any code to choose.
        """
        everywhere = where.unsqueeze(-1) & banned
        if self.banned is not None:
            everywhere = everywhere | self.banned
        losing = where & banned[self.codes]
        if everywhere[losing].all(1).any():
            raise CodeRangeError(
                "The edits leave no code to choose at some position. Leave at least one."
            )
        distances = squared_distances(self.encoded[losing], codebook.vectors)
        nearest = distances.masked_fill(everywhere[losing], torch.inf).argmin(1)
        codes = self.codes.masked_scatter(losing, nearest)
        return replace(self.with_codes(codes, losing, codebook), banned=everywhere)

    def steered(
        self, direction: Float[Tensor, " d_target"], where: Bool[Tensor, "b pos"]
    ) -> "Draft":
        """A direction added to the reconstruction at some positions."""
        added = where.unsqueeze(-1) * direction
        return replace(self, steering=added if self.steering is None else self.steering + added)

    def differs_from(self, other: "Draft") -> Bool[Tensor, " b"]:
        """Which sequences the decoder or the steering would treat differently."""
        differs = (self.vectors != other.vectors).flatten(1).any(1)
        if self.steering is not other.steering:
            zero = self.vectors.new_zeros(())
            mine = zero if self.steering is None else self.steering
            theirs = zero if other.steering is None else other.steering
            differs = differs | (mine != theirs).flatten(1).any(1)
        return differs
