"""Observing changes nothing, the user's own hooks go on as before, removal leaves no trace."""

import pytest
import torch

import clvq_lens as cl
from tests.host.contract.checks import CODES, POINTS, codes_of, next_code, on_every_kind
from tests.host.states import assert_same_state, state


@pytest.fixture(params=["source", "target"])
def point(request, kind):
    """The hook point that is read, or the one that is reconstructed."""
    return kind.after({"source": 1, "target": 2}[request.param])


@on_every_kind
def test_logits_are_bit_identical_before_while_and_after(model, saved, tokens):
    before = model(tokens)
    lens = model.add_clvq(quantizer=cl.load(saved))
    assert torch.equal(model(tokens), before)
    logits, _ = model.run_with_cache(tokens)  # everything is computed, and nothing changed
    assert torch.equal(logits, before)
    lens.remove()
    assert torch.equal(model(tokens), before)


def test_an_unfitted_quantizer_changes_no_bit_either(model, tokens):
    before = model(tokens)
    model.add_clvq(1, 2, n_codes=12)
    assert torch.equal(model.run_with_cache(tokens)[0], before)


def test_nothing_is_quantized_unless_somebody_asks(model, lens, tokens, monkeypatch):
    def fail(*args, **options):
        raise AssertionError("quantized for nobody")

    monkeypatch.setattr(lens.quantizer, "quantize", fail)
    monkeypatch.setattr(lens.quantizer, "decode", fail)
    model(tokens)
    with pytest.raises(AssertionError, match="for nobody"):
        codes_of(model, tokens)


def test_nothing_is_decoded_for_the_codes_alone(model, lens, tokens, monkeypatch):
    calls = []
    decode = lens.quantizer.decode
    monkeypatch.setattr(
        lens.quantizer, "decode", lambda *a, **o: calls.append("decode") or decode(*a, **o)
    )
    codes_of(model, tokens)
    assert calls == []
    model.run_with_cache(tokens, names_filter="clvq.1-2.hook_recon")
    assert calls == ["decode"]


def test_a_pass_changes_nothing_of_the_quantizer(model, lens, tokens):
    before = {name: value.clone() for name, value in lens.quantizer.state_dict().items()}
    model.run_with_cache(tokens)
    with lens.splice():
        model(tokens)
    after = lens.quantizer.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_the_model_owns_no_part_of_the_quantizer(model, tokens):
    before = state(model)
    model.add_clvq(1, 2, n_codes=12)
    model(tokens)
    after = state(model)
    for what in ("parameters", "modules", "own names"):
        kept = after[what]
        if what == "own names":
            kept = {name: own for name, own in kept.items() if name not in POINTS}
        assert kept == before[what]
    assert after["weights"].keys() == before["weights"].keys()


@on_every_kind
def test_removal_leaves_no_trace_and_twice_does_no_harm(model, saved, tokens):
    before = state(model)
    lens = model.add_clvq(quantizer=cl.load(saved))
    model.run_with_cache(tokens)
    with lens.edit(cl.Force(3)):
        model(tokens)
    for _ in range(2):
        lens.remove()
        assert_same_state(before, state(model))
        assert dict(model.clvqs) == {}


def test_removal_leaves_no_trace_after_a_pass_raised(model, saved, tokens):
    before = state(model)
    lens = model.add_clvq(quantizer=cl.load(saved))

    def failing(value, hook):
        raise RuntimeError("in a hook")

    with pytest.raises(RuntimeError, match="in a hook"), lens.splice():
        model.run_with_hooks(tokens, fwd_hooks=[(CODES, failing)])
    lens.remove()
    model.reset_hooks()  # of the user's own hook, if the model itself left it
    assert_same_state(before, state(model))


def test_hooks_on_the_quantizers_points_go_with_it(model, saved):
    before = state(model)
    lens = model.add_clvq(quantizer=cl.load(saved))
    model.add_hook(CODES, lambda codes, hook: None, is_permanent=True)
    model.add_hook("clvq.1-2.hook_quantized", lambda gradient, hook: None, dir="bwd")
    lens.remove()
    assert_same_state(before, state(model))
    assert not any(point.has_hooks() for point in lens.quantizer.hooks.values())


def test_one_of_two_quantizers_is_removed_without_the_other(kind, model, lens, tokens):
    codes = codes_of(model, tokens)
    other = model.add_clvq(0, 2, n_codes=12)
    other.remove()
    assert set(model.clvqs) == {"1-2"}
    assert torch.equal(codes_of(model, tokens), codes)
    with lens.splice():
        _, cache = model.run_with_cache(tokens)
    assert torch.equal(cache[kind.after(2)], cache["clvq.1-2.hook_recon"])


def test_a_removed_quantizer_is_attached_again_with_the_same_codes(model, lens, tokens):
    codes = codes_of(model, tokens)
    lens.remove()
    model.add_clvq(quantizer=lens.quantizer)
    assert torch.equal(codes_of(model, tokens), codes)


@pytest.mark.parametrize("permanent", [False, True], ids=["passing", "permanent"])
def test_the_users_hooks_fire_once_before_while_and_after(model, saved, tokens, point, permanent):
    calls = []
    model.add_hook(point, lambda value, hook: calls.append("early"), is_permanent=permanent)
    lens = model.add_clvq(quantizer=cl.load(saved))
    model.add_hook(point, lambda value, hook: calls.append("late"), is_permanent=permanent)
    for run in (model, model.run_with_cache):
        calls.clear()
        run(tokens)
        assert sorted(calls) == ["early", "late"]
    with lens.edit(cl.Force(3)):
        calls.clear()
        model(tokens)
        assert sorted(calls) == ["early", "late"]
    lens.remove()
    calls.clear()
    model(tokens)
    assert sorted(calls) == ["early", "late"]


def test_hooks_of_a_single_run_fire_once_beside_the_quantizer(model, lens, tokens, point):
    calls = []
    model.run_with_hooks(tokens, fwd_hooks=[(point, lambda value, hook: calls.append(1))])
    assert calls == [1]
    model(tokens)
    assert calls == [1]


@pytest.mark.parametrize("prepend", [False, True], ids=["appended", "prepended"])
def test_the_quantizer_reads_what_the_users_hooks_left_at_the_source(
    kind, model, saved, tokens, prepend
):
    def constant(value, hook):
        return value * 0 + 3.0

    lens = model.add_clvq(quantizer=cl.load(saved))
    expected = lens.quantizer.assign(torch.full((4, 12, 16), 3.0))
    assert not torch.equal(codes_of(model, tokens), expected)
    seen = []
    model.add_hook(CODES, lambda codes, hook: seen.append(codes))
    model.hook_dict[kind.after(1)].add_hook(constant, prepend=prepend)
    model(tokens)
    assert torch.equal(seen[0], expected)


def test_the_users_hooks_at_the_target_see_what_the_model_goes_on_with(kind, model, saved, tokens):
    seen = []
    model.add_hook(kind.after(2), lambda value, hook: seen.append(value), is_permanent=True)
    model.add_clvq(quantizer=cl.load(saved))
    model.add_hook(kind.after(2), lambda value, hook: seen.append(value), is_permanent=True)
    model(tokens)
    model.run_with_hooks(tokens, fwd_hooks=[(CODES, next_code)])
    before, also_before, after, also_after = seen
    assert torch.equal(before, also_before)
    assert torch.equal(after, also_after)
    assert not torch.equal(before, after)
