"""A few values of each weight matrix of a model, by names that all hosts share."""

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
    """Values of the embedding and of every matrix in the first blocks.

    Args:
        model: The host.
        n_blocks: Blocks that a quantizer's activations pass through; None: all.
    """
    matrices = {"W_E": model.W_E}
    for index, block in enumerate(list(model.blocks)[:n_blocks]):
        for part, name in _OF_BLOCK:
            matrix = _matrix(block, part, name)
            if matrix is not None:
                matrices[f"blocks.{index}.{part}.{name}"] = matrix
    samples = [_sample(matrix) for matrix in matrices.values()]
    values = torch.cat(samples).tolist()  # at once: on a GPU each look waits for it
    return {
        name: values[start : start + 2 * _N_VALUES]
        for name, start in zip(matrices, range(0, len(values), 2 * _N_VALUES), strict=True)
    }


def _matrix(block: Any, part: str, name: str) -> Tensor | None:
    """A matrix of a block, if it has it in a form that can be read."""
    try:
        matrix = getattr(getattr(block, part), name)
    except (AttributeError, ValueError, RuntimeError, TypeError):
        return None  # no attention in this block, latent attention, quantized weights
    is_readable = isinstance(matrix, Tensor) and matrix.is_floating_point() and not matrix.is_meta
    return matrix if is_readable else None


def _sample(matrix: Tensor) -> Float[Tensor, " n"]:
    """Values spread over the first and the last head, expert or row.

    Hosts differ in whether keys and values that several heads share are repeated; their first and
    last head are the same.
    """
    ends = []
    for part in (matrix[0], matrix[-1]):
        values = part.detach().flatten()
        index = torch.linspace(0, values.numel() - 1, _N_VALUES, dtype=torch.double).long()
        ends.append(values[index.to(values.device)])
    return torch.cat(ends).float().cpu()
