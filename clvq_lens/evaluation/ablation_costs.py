"""What ablating a target costs, measured once for all quantizers that have the same target."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

_ROUNDING = 1e-4  # of the length of the mean: what sums over the same tokens may differ by


class AblationCosts:
    """Remembers what one evaluation measured with the target ablated, for others on the same data.

    What takes the place of the target is 0, or its mean over the training tokens. That mean is the
    same, but for rounding, for all quantizers that were fitted on the same tokens, so that the
    model need not run again for each of them. It has to stay as it is, hooks included.
    """

    def __init__(self) -> None:
        self._measured: dict[str, tuple[Tensor, dict[str, Tensor]]] = {}

    def recalled(self, key: str, mean: Float[Tensor, " d_target"]) -> dict[str, Tensor] | None:
        """Sums of one batch, if they were remembered.

        Args:
            key: From `key_of`.
            mean: What takes the place of the target.
        """
        if key not in self._measured or not _agree(mean, self._measured[key][0]):
            return None
        return self._measured[key][1]

    def remember_(
        self, key: str, mean: Float[Tensor, " d_target"], sums: dict[str, Tensor]
    ) -> None:
        """Keeps the sums of one batch.

        Args:
            key: From `key_of`.
            mean: What took the place of the target.
            sums: What was measured.
        """
        self._measured[key] = mean, sums

    def state(self) -> dict[str, dict[str, Any]]:
        """What was measured, so that evaluations in another process give the same bits."""
        state: dict[str, dict[str, Any]] = {}
        for key, (mean, sums) in self._measured.items():
            state[key] = {"mean": mean.clone(), "sums": dict(sums)}  # batches share one mean
        return state

    def restore_(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Goes on with what another one measured."""
        for key, measured in state.items():
            self._measured[key] = measured["mean"], measured["sums"]


def key_of(what: str, where: Sequence[Tensor]) -> str:
    """What the sums of a batch are remembered by.

    Args:
        what: What is measured, and at which hook point.
        where: Tokens and masks of the batch.
    """
    digest = hashlib.blake2b(what.encode())
    for tensor in where:
        digest.update(repr(tuple(tensor.shape)).encode())
        digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()


def _agree(mean: Tensor, other: Tensor) -> bool:
    other = other.to(mean.device)  # restored ones are on the CPU
    return bool(torch.dist(mean, other) <= _ROUNDING * torch.linalg.vector_norm(other))
