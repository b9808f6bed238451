"""What a model says of each token: cross-entropy and KL, from logits read piece by piece."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from clvq_lens.stats.divergence import kl_divergence
from clvq_lens.stats.precision import in_double

_PIECE_CPU, _PIECE_GPU = 2**18, 2**27  # logits at once: 1 and 512 MB


class Said:
    """What a model says of each token, summed over sequences.

    Logits are read in pieces that fit the cache of a CPU: all log-probabilities of a batch would be
    written to memory and read again several times.

    Args:
        clean_logits: What the model says as it is.
        predicts: Where that counts.
        following: The token that is said at each position.
    """

    def __init__(
        self,
        clean_logits: Float[Tensor, "b pos d_vocab"],
        predicts: Bool[Tensor, "b pos"],
        following: Int[Tensor, "b pos"],
    ) -> None:
        self._clean, self._following = clean_logits.flatten(0, 1), following.flatten()
        self._predicts = predicts
        most = _PIECE_CPU if clean_logits.device.type == "cpu" else _PIECE_GPU
        n_rows = max(1, most // clean_logits.shape[-1])
        self._pieces = predicts.flatten().nonzero().squeeze(-1).split(n_rows)

    def cross_entropy(self, logits: Float[Tensor, "b pos d_vocab"]) -> Float[Tensor, " b"]:
        """Of the following tokens, in nats."""

        def of_rows(rows: Tensor, piece: Tensor) -> Tensor:
            return cross_entropy(piece.float(), self._following[rows], reduction="none")

        return self._summed(logits, of_rows)

    def kl(self, logits: Float[Tensor, "b pos d_vocab"]) -> Float[Tensor, " b"]:
        """KL(clean || what these logits say), in nats."""
        return self._summed(
            logits, lambda rows, piece: kl_divergence(self._clean.index_select(0, rows), piece)
        )

    def _summed(self, logits: Tensor, of_rows: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        flat = logits.flatten(0, 1)
        values = torch.zeros(self._predicts.numel(), device=flat.device)
        for rows in self._pieces:
            values[rows] = of_rows(rows, flat.index_select(0, rows))
        return in_double(values.view_as(self._predicts)).sum(1)
