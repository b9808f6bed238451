"""torch.compile: the same numbers, whenever a quantizer is attached, edited and removed."""

import copy
from collections.abc import Iterator
from typing import Any

import jaxtyping
import pytest
import torch

import clvq_lens as cl
from tests.hosts import KINDS, Kind, words

pytestmark = pytest.mark.slow  # compiling takes seconds


@pytest.fixture(scope="module")
def kind() -> Kind:
    """A HookedTransformer, or a bridge where there is none: each takes a minute."""
    kinds = {kind.name: kind for kind in KINDS}
    return kinds.get("hooked-gpt2", kinds["bridge-llama"])


@pytest.fixture(scope="module")
def quantizer(kind: Kind) -> cl.CrossLayerQuantizer:
    lens = kind.model().add_clvq(1, 2, n_codes=12, top_k=3)
    lens.fit(words(60, 16, seed=2), n_tokens=3_000, batch_tokens=256, progress=False)
    return lens.quantizer


@pytest.fixture
def model(kind: Kind) -> Any:
    return kind.model()


@pytest.fixture(autouse=True)
def _as_for_a_user() -> Iterator[None]:
    """Nothing compiled before, and none of the shape checks of the test run to be compiled."""
    jaxtyping.config.update("jaxtyping_disable", True)
    torch.compiler.reset()
    yield
    torch.compiler.reset()
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def tokens() -> torch.Tensor:
    return words(2, 8)


def compiled(model: Any) -> Any:
    return torch.compile(model, backend="eager")  # hooks are lost or kept before any backend


@torch.no_grad()
def logits(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    return model(tokens)


@pytest.fixture
def expected(kind: Kind, quantizer: cl.CrossLayerQuantizer, tokens: torch.Tensor) -> Any:
    """Logits of the model as it is, and with code 3 banned."""
    model = kind.model()
    lens = model.add_clvq(quantizer=copy.deepcopy(quantizer))
    clean = logits(model, tokens)
    with lens.edit(cl.Ablate(3)):
        return clean, logits(model, tokens)


def test_a_model_that_ran_compiled_before_is_edited(model, quantizer, tokens, expected):
    clean, ablated = expected
    fast = compiled(model)
    assert torch.equal(logits(fast, tokens), clean)
    lens = model.add_clvq(quantizer=quantizer)
    with lens.edit(cl.Ablate(3)):
        assert torch.equal(logits(fast, tokens), ablated)
    assert torch.equal(logits(fast, tokens), clean)
    lens.remove()
    assert torch.equal(logits(fast, tokens), clean)


def test_a_removed_quantizer_is_gone_from_compiled_code(model, quantizer, tokens, monkeypatch):
    fast = compiled(model)
    lens = model.add_clvq(quantizer=quantizer)
    model.hook_dict["clvq.1-2.hook_codes"].add_hook(lambda codes, hook: None)
    logits(fast, tokens)
    lens.remove()
    monkeypatch.setattr(quantizer, "quantize", lambda *_: pytest.fail("still attached"))
    logits(fast, tokens)


def test_a_direction_is_projected_out_of_compiled_code(model, quantizer, tokens, expected):
    fast = compiled(model)
    lens = model.add_clvq(quantizer=quantizer)
    logits(fast, tokens)
    with lens.project_out(3):
        by_eye, by_code = logits(model, tokens), logits(fast, tokens)
    assert torch.equal(by_code, by_eye)
    assert not torch.equal(by_code, expected[0])
    assert torch.equal(logits(fast, tokens), expected[0])


def test_a_quantizer_is_attached_to_what_torch_compile_gives(model, quantizer, tokens, expected):
    fast = compiled(model)
    lens = cl.add_clvq(fast, quantizer=quantizer)
    assert dict(cl.clvqs(fast)) == dict(model.clvqs) == {"1-2": lens}
    with lens.edit(cl.Ablate(3)):
        assert torch.equal(logits(fast, tokens), expected[1])
    assert cl.concept_flow(fast, tokens, progress=False).n_tokens == tokens.numel()


def test_verbs_work_on_a_model_compiled_in_place(model, tokens):
    model.compile(backend="eager")
    logits(model, tokens)
    lens = model.add_clvq(1, 2, n_codes=12, top_k=3)
    lens.fit(words(60, 16, seed=2), n_tokens=3_000, batch_tokens=256, progress=False)
    sweep = cl.ablation_sweep(lens, tokens[:1], cl.kl(), progress=False)
    worst = sweep.frame().iloc[0]
    with lens.edit(cl.Ablate(int(worst["code"]))):
        edited = logits(model, tokens[:1])
    clean = logits(model, tokens[:1]).log_softmax(-1)
    difference = (clean.exp() * (clean - edited.log_softmax(-1))).sum(-1).mean()
    assert difference > 0
    assert abs(float(difference) - worst["effect"]) < 1e-5
