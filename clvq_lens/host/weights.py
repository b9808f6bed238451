"""A few values of each weight matrix of a model, under names that all kinds of host share."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

_N_VALUES = 4  # from the first slice of a matrix and from its last
_OF_BLOCK = (
    *(("attn", "W_Q"), ("attn", "W_K"), ("attn", "W_V"), ("attn", "W_O")),
    *(("mlp", "W_in"), ("mlp", "W_gate"), ("mlp", "W_out")),
)


def sample_weights(model: Any, n_blocks: int | None) -> dict[str, list[float]]:
    """A few values of the embedding and of every matrix in the first blocks.

    Args:
        model: The host model.
        n_blocks: How many blocks a quantizer's activations pass through; None: all blocks.
    """
    matrices = {"W_E": model.W_E}
    for index, block in enumerate(list(model.blocks)[:n_blocks]):
        for part, name in _OF_BLOCK:
            matrix = _matrix(block, part, name)
            if matrix is not None:
                matrices[f"blocks.{index}.{part}.{name}"] = matrix
    samples = torch.stack([_sample(matrix) for matrix in matrices.values()])
    # One transfer for all matrices: on a GPU each look at a value waits for it.
    return dict(zip(matrices, samples.tolist(), strict=True))


def _matrix(block: Any, part: str, name: str) -> Tensor | None:
    """A matrix of a block; None if the block lacks it, or has it in a form that cannot be read."""
    try:
        matrix = getattr(getattr(block, part), name)
    except (AttributeError, ValueError, RuntimeError, TypeError):
        return None  # no attention in this block, latent attention, quantized weights
    is_readable = isinstance(matrix, Tensor) and matrix.is_floating_point() and not matrix.is_meta
    return matrix if is_readable else None


def _sample(matrix: Tensor) -> Float[Tensor, " n"]:
    """Values spread over the first and the last head, expert or row.

    Where several heads share keys and values, some hosts repeat these and others do not; the first
    and the last head are the same on all of them.
    """
    ends = []
    for part in (matrix[0], matrix[-1]):
        values = part.detach().flatten()
        index = torch.linspace(0, values.numel() - 1, _N_VALUES, dtype=torch.double).long()
        ends.append(values[index.to(values.device)])
    return torch.cat(ends).float().cpu()
