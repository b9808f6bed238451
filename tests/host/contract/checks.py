"""What several tests of the contract look at."""

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.hosts import KINDS, Kind

HOOKS = ("hook_encoded", "hook_codes", "hook_quantized", "hook_recon", "hook_error")
POINTS = tuple(f"clvq.1-2.{hook}" for hook in HOOKS)
CODES = "clvq.1-2.hook_codes"
_TORCH_HOOKS = (
    *("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"),
    *("_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs"),
)


def parameters(kinds: Iterable[Kind]) -> list[Any]:
    """Kinds of host to run on; on the extra ones only where slow tests run, too."""
    return [pytest.param(kind, marks=[pytest.mark.slow] * kind.is_extra) for kind in kinds]


def on(kinds: Iterable[Kind]) -> pytest.MarkDecorator:
    """Runs a test on some kinds of host."""
    return pytest.mark.parametrize(
        "kind", parameters(kinds), ids=str, indirect=True, scope="package"
    )


on_causal_kinds = on(kind for kind in KINDS if kind.causal)
on_bridges = on(kind for kind in KINDS if kind.is_bridge)


def next_code(codes: Tensor, hook: Any) -> Tensor:
    """A hook that puts another code everywhere."""
    return (codes + 1) % 12


def difference(logits: Tensor) -> Tensor:
    """A metric that every kind of model has."""
    return (logits[:, -1, 8] - logits[:, -1, 9]).sum()


def commonest(lens: Any, tokens: Tensor) -> list[int]:
    """The two codes that most tokens have, so that there is something to change."""
    return codes_of(lens.model, tokens).flatten().bincount().argsort(descending=True)[:2].tolist()


def codes_of(model: Any, *args: Any, **options: Any) -> Tensor:
    """The codes of a pass."""
    return model.run_with_cache(*args, names_filter=CODES, **options)[1][CODES]


def state(model: Any) -> dict[str, Any]:
    """Everything about a model that attaching and removing must leave alone."""
    modules = dict(model.named_modules()) | dict(model.hook_dict)
    return {
        "weights": {name: value.clone() for name, value in model.state_dict().items()},
        "parameters": [name for name, _ in model.named_parameters()],
        "modules": [name for name, _ in model.named_modules()],
        "hook names": list(model.hook_dict),
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
