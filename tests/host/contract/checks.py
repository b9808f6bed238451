"""What several tests of the contract look at."""

from collections.abc import Iterable
from typing import Any

import pytest
from torch import Tensor

from tests.hosts import KINDS, Kind

HOOKS = ("hook_encoded", "hook_codes", "hook_quantized", "hook_recon", "hook_error")
POINTS = tuple(f"clvq.1-2.{hook}" for hook in HOOKS)
CODES = "clvq.1-2.hook_codes"
# One of each sort: causal or not, with a model class of TransformerLens or of Hugging Face.
_SORTS = ("hooked-gpt2", "hooked-encoder", "bridge-llama", "bridge-bert")


def parameters(kinds: Iterable[Kind]) -> list[Any]:
    """Kinds of host to run on; on the extra ones only where slow tests run, too."""
    return [pytest.param(kind, marks=[pytest.mark.slow] * kind.is_extra) for kind in kinds]


def on(kinds: Iterable[Kind]) -> pytest.MarkDecorator:
    """Runs a test on some kinds of host."""
    return pytest.mark.parametrize(
        "kind", parameters(kinds), ids=str, indirect=True, scope="package"
    )


SORTS = [kind for kind in KINDS if kind.name in _SORTS]
USUAL = [kind for kind in KINDS if not kind.is_extra]

# Without a mark a test runs on the usual kinds of host. The first is for the heart of the contract,
# the next two for what cannot differ between kinds.
on_every_kind = on(KINDS)
on_one_kind = on(KINDS[:1])
on_one_of_each_sort = on(SORTS)
on_causal_kinds = on(kind for kind in USUAL if kind.causal)
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
