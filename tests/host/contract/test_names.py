"""The quantizer's hook points are hook points of the model like any other."""

import pytest
import torch

import clvq_lens as cl
from tests.host.contract.checks import CODES, HOOKS, POINTS, codes_of, on_every_kind

FILTERS = {
    "none": None,
    "list": list(POINTS),
    "callable": lambda name: name.startswith("clvq."),
}


def test_add_clvq_is_a_method_of_the_model_and_a_function(model):
    lens = model.add_clvq(1, 2, n_codes=12)
    other = cl.add_clvq(model, 0, 3, name="wide", n_codes=12)
    assert dict(model.clvqs) == {"1-2": lens, "wide": other}
    assert dict(cl.clvqs(model)) == dict(model.clvqs)


@on_every_kind
def test_a_layer_number_is_the_residual_stream_after_that_block(kind, model):
    lens = model.add_clvq(1, 2, n_codes=12)
    assert (lens.source, lens.target) == (kind.after(1), kind.after(2))


def test_the_name_of_a_hook_point_is_kept_as_it_is(kind, model):
    lens = model.add_clvq(kind.after(0), kind.after(3), n_codes=12)
    assert (lens.source, lens.target) == (kind.after(0), kind.after(3))


@on_every_kind
def test_what_is_read_is_the_residual_stream_of_the_model(kind, model, lens, tokens):
    _, cache = model.run_with_cache(tokens)
    source, target = cache[kind.after(1)], cache[kind.after(2)]
    codes = cache[CODES]
    assert torch.equal(cache["clvq.1-2.hook_encoded"], lens.quantizer.encode(source))
    assert torch.equal(codes, lens.quantizer.assign(source))
    assert torch.equal(cache["clvq.1-2.hook_quantized"], lens.quantizer.codebook.vectors[codes])
    assert torch.equal(cache["clvq.1-2.hook_error"], target - cache["clvq.1-2.hook_recon"])


def test_all_five_hook_points_are_in_the_hook_dict(model, lens):
    assert set(POINTS) <= set(model.hook_dict)
    assert [model.hook_dict[point].name for point in POINTS] == list(POINTS)


@pytest.mark.parametrize("names_filter", FILTERS.values(), ids=FILTERS)
def test_the_cache_holds_the_hook_points_with_their_shapes(model, lens, tokens, names_filter):
    _, cache = model.run_with_cache(tokens, names_filter=names_filter)
    assert set(POINTS) == {name for name in cache if name.startswith("clvq.")}
    shapes = {hook: tuple(cache[f"clvq.1-2.{hook}"].shape) for hook in HOOKS}
    assert shapes == {hook: (4, 12) if hook == "hook_codes" else (4, 12, 16) for hook in HOOKS}
    assert not cache[CODES].dtype.is_floating_point


@pytest.mark.parametrize("point", POINTS)
def test_a_string_filter_caches_that_hook_point_alone(model, lens, tokens, point):
    _, cache = model.run_with_cache(tokens, names_filter=point)
    assert list(cache) == [point]


def test_cached_codes_are_those_that_encode_gives(model, lens, tokens):
    assert torch.equal(codes_of(model, tokens), lens.encode(tokens).codes)
    assert len(lens.encode(tokens).codes.unique()) > 3


def test_run_with_hooks_calls_a_hook_once_with_the_name_of_the_point(model, lens, tokens):
    seen = []
    hooks = [(point, lambda value, hook: seen.append(hook.name)) for point in POINTS]
    model.run_with_hooks(tokens, fwd_hooks=hooks)
    assert sorted(seen) == sorted(POINTS)
    model(tokens)
    assert len(seen) == len(POINTS)


def test_a_callable_names_several_hook_points(model, lens, tokens):
    seen = []
    hook = (lambda name: name.startswith("clvq."), lambda value, hook: seen.append(hook.name))
    model.run_with_hooks(tokens, fwd_hooks=[hook])
    assert sorted(seen) == sorted(POINTS)


def test_added_hooks_are_called_until_they_are_reset(model, lens, tokens):
    seen = []
    model.add_hook(CODES, lambda codes, hook: seen.append("codes"))
    with model.hooks(fwd_hooks=[("clvq.1-2.hook_recon", lambda r, hook: seen.append("recon"))]):
        model(tokens)
    assert seen == ["codes", "recon"]
    model(tokens)
    assert seen == ["codes", "recon", "codes"]
    model.reset_hooks()
    model(tokens)
    assert seen == ["codes", "recon", "codes"]


def test_a_reset_of_all_hooks_leaves_the_quantizer_attached(model, lens, tokens):
    expected = codes_of(model, tokens)
    model.reset_hooks(including_permanent=True)
    assert torch.equal(codes_of(model, tokens), expected)


@on_every_kind
def test_every_name_that_the_model_had_stays_in_its_cache(kind, model, saved, tokens):
    _, before = model.run_with_cache(tokens)
    model.add_clvq(quantizer=cl.load(saved))
    _, after = model.run_with_cache(tokens)
    assert set(after) == {*before, *POINTS}
    for name in (kind.after(1), kind.after(2), kind.after(3)):
        assert torch.equal(before[name], after[name])
