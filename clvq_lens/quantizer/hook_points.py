"""Hook points, and whether a hook changed the value that passed through one."""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformer_lens.hook_points import HookPoint as HookPoint


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
