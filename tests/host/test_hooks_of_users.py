"""What users do to a model with a quantizer: hooks before ours, a new search, mid-way memory."""

import weakref

import pytest
import torch
import torch._dynamo.config

import clvq_lens as cl
from clvq_lens.host import attachment
from clvq_lens.host.compiled import HookGuards
from tests.hosts import KINDS, words

HOOKED = [kind for kind in KINDS if kind.name == "hooked-gpt2"]
USED = [*HOOKED, *(kind for kind in KINDS if kind.name == "bridge-llama")]


@pytest.fixture(params=USED, ids=str)
def kind(request):
    return request.param


@pytest.fixture
def model(kind):
    return kind.model()


@pytest.fixture
def lens(model):
    lens = model.add_clvq(1, 2, n_codes=12, top_k=3)
    lens.fit(words(20, 16, seed=2), n_tokens=300, batch_tokens=128, progress=False)
    return lens


def test_a_hook_that_is_prepended_later_sees_what_the_model_goes_on_with(kind, model, lens):
    tokens, seen = words(2, 8), []
    point = model.hook_dict[kind.after(2)]
    point.add_hook(lambda value, hook: seen.append(value.clone()), prepend=True)
    with lens.splice():
        _, cache = model.run_with_cache(tokens)
    assert torch.equal(seen[-1], cache[kind.after(2)])
    assert not torch.equal(seen[-1], model.run_with_cache(tokens)[1][kind.after(2)])


def test_a_generation_under_no_edit_is_remembered_as_codes_without_a_graph(
    kind, model, lens, monkeypatch
):
    monkeypatch.setattr("clvq_lens.host.generation._MOST_WAITING", 8)
    tokens = words(1, 4)
    states = []
    original = lens.attachment._running._generations.of

    def watched(context):
        states.append(original(context))
        return states[-1]

    lens.attachment._running._generations.of = watched
    with torch.enable_grad():
        model.generate(tokens, max_new_tokens=40, do_sample=False, stop_at_eos=False, verbose=False)
    state = next(state for state in reversed(states) if state is not None)
    assert not any(part.requires_grad for part in state.waiting)
    assert sum(part.shape[1] for part in state.waiting) < 8
    assert sum(part.shape[1] for part in state.codes) > 30


def test_an_idle_lens_keeps_no_activations(kind, model, lens):
    for options in ({}, {"stop_at_layer": 2}):
        model(words(2, 8), **options)
        assert lens.attachment._running._at_source.activations is None
    with lens.edit(cl.Force(3)):
        model(words(2, 8), stop_at_layer=2)
    assert lens.attachment._running._at_source.quantized is None


def test_a_fit_leaves_nothing_that_gradients_need(lens):
    assert not any(parameter.requires_grad for parameter in lens.quantizer.parameters())
    assert all(parameter.grad is None for parameter in lens.quantizer.parameters())


@pytest.mark.parametrize("kind", HOOKED, ids=str, indirect=True)
def test_a_new_search_for_hook_points_keeps_those_of_a_quantizer(kind, model, lens):
    model.setup()
    _, cache = model.run_with_cache(words(2, 8))
    assert cache["clvq.1-2.hook_codes"].shape == (2, 8)
    lens.remove()
    model.setup()
    assert not any(name.startswith("clvq") for name in model.hook_dict)
    assert "setup" not in vars(model)


def test_guards_of_compiled_code_are_put_back_with_the_last_lens(model, monkeypatch):
    monkeypatch.setattr(attachment, "hook_guards", HookGuards())
    monkeypatch.setattr(attachment, "_attached", weakref.WeakSet())
    with torch._dynamo.config.patch(skip_nnmodule_hook_guards=True):
        first = model.add_clvq(0, 1, n_codes=4, top_k=3)
        second = model.add_clvq(1, 2, n_codes=4, top_k=3)
        for lens, skipped in ((first, False), (second, True)):
            assert torch._dynamo.config.skip_nnmodule_hook_guards is False
            lens.remove()
            assert torch._dynamo.config.skip_nnmodule_hook_guards is skipped
