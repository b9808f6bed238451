"""Hook points, and whether a hook changed the value that passed through one."""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformer_lens.hook_points import HookPoint as HookPoint

from clvq_lens.errors import ShapeError


@dataclass(frozen=True)
class PassedHook:
    """A value before and after a hook point, and whether a hook changed it."""

    before: Tensor
    after: Tensor
    changed: bool


def pass_through(hook: HookPoint, value: Tensor) -> PassedHook:
    """Sends a value through a hook point, and tells whether a hook changed it."""
    if not hook.has_hooks("fwd"):
        return PassedHook(value, hook(value), changed=False)
    # A hook may write into the tensor that it receives; only a copy from before can tell.
    before = value.detach().clone()
    after = hook(value)
    changed = after is not value or not torch.equal(before, after)
    return PassedHook(before, after, changed=changed)


def check_codes(codes: Tensor, shape: torch.Size, n_codes: int) -> None:
    """Raises `ShapeError` unless a hook has returned a code of the codebook for each token."""
    if codes.dtype not in (torch.int32, torch.int64) or codes.shape != shape:
        raise ShapeError(
            f"A hook on hook_codes returned {codes.dtype} of shape {list(codes.shape)}; "
            f"expected torch.int64 of shape {list(shape)}. Return one code per token."
        )
    if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < n_codes:
        raise ShapeError(
            f"A hook on hook_codes returned codes from {int(codes.min())} to "
            f"{int(codes.max())}; valid codes lie in [0, {n_codes})."
        )
