"""What the name of a hook point tells: layer, depth, and width of the vectors."""

import operator
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch

from clvq_lens.errors import HookNotFoundError, ShapeError

IN_BLOCK = re.compile(r"(blocks\.(\d+)\.)(.+)")
"""A hook point inside a block: beginning of the name, number of the block, name within it."""

_OF_MODEL_WIDTH = re.compile(
    r"(blocks\.\d+\.)?hook_(resid_(pre|mid|post)|normalized_resid_post|(attn|mlp)_out)"
    r"|hook_(embed|pos_embed|full_embed)|embed\.hook_(embed|pos_embed|out)"
    r"|(blocks\.\d+\.ln[12]|ln_final)\.hook_normalized"
)
_OF_MLP_WIDTH = re.compile(r"blocks\.\d+\.mlp\.hook_(pre|pre_linear|post)")


def layer_number(point: object, n_layers: int) -> int:
    """A layer as an int, from any kind of whole number: also of numpy, or a tensor of one.

    Raises:
        HookNotFoundError: If it is not a whole number, or the model has no such layer.
    """
    layer: int | None = None
    # True and False count as whole numbers in Python; as a layer they are a mistake.
    is_truth = isinstance(point, bool | np.bool_) or getattr(point, "dtype", None) == torch.bool
    if not is_truth:
        with suppress(TypeError):
            layer = operator.index(point)  # pyright: ignore[reportArgumentType]
    if layer is None:
        raise HookNotFoundError(
            f"{point!r} is neither a layer nor a hook point. Pass a layer number from 0 to "
            f"{n_layers - 1}, or a name such as 'blocks.0.hook_resid_post'."
        )
    if not 0 <= layer < n_layers:
        raise HookNotFoundError(
            f"No layer {layer} in this model. It has layers 0 to {n_layers - 1}."
        )
    return layer


def depth_at(name: str, n_layers: int, order: Sequence[str]) -> tuple[int, int]:
    """Where a pass meets a hook point: block, and rank within it. Depths can be compared.

    Args:
        name: Name of the hook point.
        n_layers: Number of blocks.
        order: Beginnings of names within a block, as a pass meets them.
    """
    in_block = IN_BLOCK.fullmatch(name)
    if in_block is None:
        # Embeddings come before the blocks, the final norm and the unembedding after them.
        is_after = name.startswith(("ln_final", "unembed"))
        return (n_layers, 0) if is_after else (-1, 0)
    index, point = int(in_block[2]), in_block[3]
    rank = len(order)
    for place, beginning in enumerate(order):
        if point.startswith(beginning):
            rank = place
            break
    # The end of a block comes after points that the order does not list, such as hook_mlp_out.
    return index, rank + (point == "hook_resid_post")


def width_at(name: str, model: Any) -> int:
    """Width of the vectors at a hook point.

    Args:
        name: Name of the hook point.
        model: The host model.

    Raises:
        ShapeError: If the point does not carry one vector of known width per token.
    """
    if _OF_MODEL_WIDTH.fullmatch(name):
        return model.cfg.d_model
    if _OF_MLP_WIDTH.fullmatch(name):
        return model.cfg.d_mlp
    raise ShapeError(
        f"Hook point {name!r} does not carry one vector per token that a quantizer could read. "
        f"Pass a layer number, or a point such as 'blocks.0.hook_resid_post'."
    )
