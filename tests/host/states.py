"""The state of a model, to compare before and after something that must leave it alone."""

from typing import Any

import torch

_TORCH_HOOKS = (
    *("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"),
    *("_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs"),
)


def state(model: Any) -> dict[str, Any]:
    """Everything about a model that attaching and removing must leave alone."""
    modules = dict(model.named_modules()) | dict(model.hook_dict)
    return {
        "weights": {name: value.clone() for name, value in model.state_dict().items()},
        "parameters": [name for name, _ in model.named_parameters()],
        "modules": [name for name, _ in model.named_modules()],
        "hook names": list(model.hook_dict),
        "names of modules and hooks": list(getattr(model, "mod_dict", ())),  # a bridge has none
        "attributes": set(model.__dict__),
        "own names": {name: point.name for name, point in model.hook_dict.items()},
        "hooks": {
            name: (list(point.fwd_hooks), list(point.bwd_hooks))
            for name, point in model.hook_dict.items()
        },
        "torch hooks": {
            name: [list(getattr(module, kind).values()) for kind in _TORCH_HOOKS]
            for name, module in modules.items()
        },
        "forwards": {name: module.__dict__.get("forward") for name, module in modules.items()},
    }


def assert_same_state(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Fails with the name of what differs."""
    for name, value in before["weights"].items():
        assert torch.equal(value, after["weights"][name]), name
    for what in before.keys() - {"weights"}:
        assert before[what] == after[what], what
