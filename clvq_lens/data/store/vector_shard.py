"""Some documents of vectors that are in memory, or in a file that is mapped into it."""

import hashlib
from collections.abc import Mapping
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from clvq_lens.data.document import Document, Part
from clvq_lens.data.store.columns import signed
from clvq_lens.errors import NonFiniteError


class VectorShard:
    """Documents that follow each other, each of them one sequence.

    Args:
        points: The vectors at each point: views, which are read when they are used first.
        tokens: Token ids; None: nobody knows them.
        lengths: Tokens of each document.
        first: Number of the first document.
    """

    def __init__(
        self,
        points: Mapping[str, Float[Tensor, "n _"]],
        tokens: Int[Tensor, " n"] | None,
        lengths: Int[Tensor, " s"],
        first: int,
    ) -> None:
        self._points, self._tokens = dict(points), tokens
        self._finite: set[str] = set()
        self.lengths = self.n_real = lengths
        self.starts: Int[Tensor, " s"] = lengths.cumsum(0) - lengths
        self.documents: Int[Tensor, " s"] = torch.arange(first, first + len(lengths))

    @property
    def tokens(self) -> Int[Tensor, " n"]:
        """Token ids of all documents; 0 where nobody knows them."""
        if self._tokens is None:
            return torch.zeros(int(self.lengths.sum()), dtype=torch.long)
        return self._tokens

    @property
    def mask(self) -> Bool[Tensor, " n"]:
        """True everywhere: all vectors are of real tokens."""
        return torch.ones(int(self.lengths.sum()), dtype=torch.bool)

    @cached_property
    def digests(self) -> Int[Tensor, " s"]:
        """A digest of each document: of its tokens, or else of its last vectors."""
        starts, ends = self.starts.tolist(), (self.starts + self.lengths).tolist()
        digests: list[int] = []
        for start, end in zip(starts, ends, strict=True):
            if self._tokens is None:
                digest = self._digest_of_vectors(start, end)
            else:
                digest = Document(self._tokens[start:end], 0).digest()  # as in a store of them
            digests.append(signed(digest))
        return torch.tensor(digests)

    def _digest_of_vectors(self, start: int, end: int) -> int:
        # In the last vector is all that the model has read. The first may be that of BOS, which is
        # the same in all documents.
        digest = hashlib.blake2b(str(end - start).encode(), digest_size=8)
        for vectors in self._points.values():
            digest.update(vectors[end - 1].contiguous().view(torch.uint8).numpy().tobytes())
        return int.from_bytes(digest.digest(), "big")

    def activations(self, point: str) -> Float[Tensor, "n d"]:
        """The vectors of all documents at a point.

        Raises:
            NonFiniteError: If they hold NaN or infinity.
        """
        vectors = self._points[point]
        if point not in self._finite:  # once, because it reads all of them
            n_bad = int((~torch.isfinite(vectors)).any(1).sum())
            if n_bad:
                raise NonFiniteError(
                    f"{n_bad} of {len(vectors)} vectors of the {point} hold NaN or infinity "
                    f"(documents {int(self.documents[0])} to {int(self.documents[-1])}). Leave "
                    f"these tokens out; float16 overflows where bfloat16 does not."
                )
            self._finite.add(point)
        return vectors

    def part(self, sequence: int) -> Part:
        """How much of its document a sequence is: all of it."""
        return Part(0, 0, 0, int(self.lengths[sequence]), is_whole=True)
