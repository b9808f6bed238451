"""The contract with the host model: observing changes nothing, edits act, removal restores."""

import copy

import pytest
import torch

import clvq_lens as cl
from clvq_lens.errors import (
    ConfigError,
    DetachedError,
    HookNotFoundError,
    HostMismatchError,
    LayerOrderError,
    NameTakenError,
    NotFittedError,
    ShapeError,
    SpliceConflictError,
    UnsupportedHostError,
)
from tests.conftest import random_model

SOURCE, TARGET = "blocks.1.hook_resid_post", "blocks.2.hook_resid_post"
HOOKS = ["hook_encoded", "hook_codes", "hook_quantized", "hook_recon", "hook_error"]


def state(model):
    """Everything about a model that attaching must leave alone."""
    return {
        "state_dict": {k: v.clone() for k, v in model.state_dict().items()},
        "parameters": [name for name, _ in model.named_parameters()],
        "modules": [name for name, _ in model.named_modules()],
        "hook_names": list(model.hook_dict),
        "module_names": list(model.mod_dict),
        "attributes": set(model.__dict__),
        "hooks": {
            name: (
                list(point.fwd_hooks),
                list(point._forward_hooks.values()),
                list(point._forward_pre_hooks.values()),
            )
            for name, point in model.hook_dict.items()
        },
        "module_hooks": {
            name: (len(module._forward_hooks), len(module._forward_pre_hooks))
            for name, module in model.named_modules()
        },
    }


def assert_same_state(before, after):
    for key, value in before["state_dict"].items():
        assert torch.equal(value, after["state_dict"][key])
    assert {k: v for k, v in before.items() if k != "state_dict"} == {
        k: v for k, v in after.items() if k != "state_dict"
    }


def other_codes(codes, hook):
    return (codes + 1) % 12


# ---- observing -----------------------------------------------------------------------------------


def test_add_clvq_is_a_method_of_the_model_and_a_function(model):
    lens = model.add_clvq(source=1, target=2, n_codes=12)
    other = cl.add_clvq(model, 0, 3, name="wide", n_codes=12)
    assert dict(model.clvqs) == {"1-2": lens, "wide": other}
    assert dict(cl.clvqs(model)) == dict(model.clvqs)
    assert (lens.source, lens.target) == (SOURCE, TARGET)


def test_logits_are_bit_identical_with_a_quantizer_attached(model, tokens, fitted):
    fitted.remove()
    before = model(tokens)
    lens = model.add_clvq(quantizer=fitted.quantizer)
    assert torch.equal(model(tokens), before)
    logits, _ = model.run_with_cache(tokens)  # everything is computed, and nothing changed
    assert torch.equal(logits, before)
    lens.remove()
    assert torch.equal(model(tokens), before)


def test_nothing_is_decoded_unless_somebody_asks(model, tokens, fitted, monkeypatch):
    calls = []
    original = fitted.quantizer.decode
    monkeypatch.setattr(
        fitted.quantizer, "decode", lambda *a, **k: calls.append(1) or original(*a, **k)
    )
    model(tokens)
    model.run_with_cache(tokens, names_filter="clvq.1-2.hook_codes")
    assert calls == []
    model.run_with_cache(tokens, names_filter="clvq.1-2.hook_recon")
    assert calls == [1]


def test_nothing_is_quantized_unless_somebody_asks(model, tokens, fitted, monkeypatch):
    monkeypatch.setattr(fitted.quantizer, "quantize", lambda *_: pytest.fail("quantized"))
    model(tokens)


def test_cache_holds_all_hook_points_with_their_shapes(model, tokens, fitted):
    _, cache = model.run_with_cache(tokens)
    shapes = {name: tuple(cache[f"clvq.1-2.{name}"].shape) for name in HOOKS}
    assert shapes == {
        "hook_encoded": (4, 12, 16),
        "hook_codes": (4, 12),
        "hook_quantized": (4, 12, 16),
        "hook_recon": (4, 12, 16),
        "hook_error": (4, 12, 16),
    }
    codes = cache["clvq.1-2.hook_codes"]
    assert not codes.dtype.is_floating_point
    assert torch.equal(codes, fitted.quantizer.assign(cache[SOURCE]))
    assert torch.equal(cache["clvq.1-2.hook_quantized"], fitted.quantizer.codebook.vectors[codes])
    error = cache[TARGET] - cache["clvq.1-2.hook_recon"]
    assert torch.equal(cache["clvq.1-2.hook_error"], error)


def test_names_filter_reset_hooks_and_hooks_treat_the_points_like_any_other(model, tokens, fitted):
    seen = []
    model.add_hook("clvq.1-2.hook_codes", lambda codes, hook: seen.append(hook.name))
    model(tokens)
    model.reset_hooks()
    model(tokens)
    assert seen == ["clvq.1-2.hook_codes"]
    with model.hooks(fwd_hooks=[(lambda name: name.endswith("hook_codes"), lambda c, hook: None)]):
        model(tokens)
    assert model.hook_dict["clvq.1-2.hook_codes"].fwd_hooks == []


def test_reset_hooks_including_permanent_ones_leaves_the_quantizer_attached(model, tokens, fitted):
    model.reset_hooks(including_permanent=True)
    _, cache = model.run_with_cache(tokens, names_filter="clvq.1-2.hook_codes")
    assert "clvq.1-2.hook_codes" in cache


def test_host_state_is_as_found_while_attached_and_after_removal(model, tokens):
    before = state(model)
    lens = model.add_clvq(1, 2, n_codes=12)
    model(tokens)
    attached = state(model)
    for key in ("parameters", "modules"):
        assert attached[key] == before[key]
    assert attached["state_dict"].keys() == before["state_dict"].keys()
    assert set(before["hook_names"]) <= set(attached["hook_names"])
    lens.remove()
    assert_same_state(before, state(model))
    lens.remove()  # twice does no harm
    assert_same_state(before, state(model))


def test_removal_leaves_no_trace_after_a_body_raised(model, tokens, fitted):
    fitted.remove()
    before = state(model)
    lens = model.add_clvq(quantizer=fitted.quantizer)

    def failing(value, hook):
        raise RuntimeError("in a hook")

    with pytest.raises(RuntimeError, match="in a hook"), lens.splice():
        model.run_with_hooks(tokens, fwd_hooks=[("clvq.1-2.hook_codes", failing)])
    assert not lens.attachment.splices
    lens.remove()
    assert_same_state(before, state(model))


def test_a_hook_left_on_our_points_goes_with_them(model):
    before = state(model)
    lens = model.add_clvq(1, 2, n_codes=12)
    model.add_hook("clvq.1-2.hook_codes", lambda codes, hook: None, is_permanent=True)
    lens.remove()
    assert_same_state(before, state(model))


@pytest.mark.parametrize("point", [SOURCE, TARGET])
def test_the_users_hooks_fire_once_before_while_and_after(model, tokens, point):
    calls = []
    model.add_hook(point, lambda value, hook: calls.append("early"))
    lens = model.add_clvq(1, 2, n_codes=12)
    model.add_hook(point, lambda value, hook: calls.append("late"), is_permanent=True)
    model(tokens)
    assert sorted(calls) == ["early", "late"]
    model.run_with_cache(tokens)
    assert sorted(calls) == ["early", "early", "late", "late"]
    lens.remove()
    calls.clear()
    model(tokens)
    assert sorted(calls) == ["early", "late"]
    assert point in model.run_with_cache(tokens)[1]


def test_the_quantizer_reads_what_the_users_hooks_left_at_the_source(model, tokens, fitted):
    for prepend in (False, True):
        with model.hooks():
            model.add_hook(SOURCE, lambda value, hook: value * 0 + 3.0, prepend=prepend)
            _, cache = model.run_with_cache(tokens, names_filter="clvq.1-2.hook_codes")
        model.reset_hooks()
        expected = fitted.quantizer.assign(torch.full((4, 12, 16), 3.0))
        assert torch.equal(cache["clvq.1-2.hook_codes"], expected)


def test_eval_passes_change_no_state_of_the_quantizer(model, tokens, fitted):
    before = {k: v.clone() for k, v in fitted.quantizer.state_dict().items()}
    model.run_with_cache(tokens)
    with fitted.splice():
        model(tokens)
    after = fitted.quantizer.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)


# ---- acting --------------------------------------------------------------------------------------


def test_changed_codes_move_the_target_by_the_difference_of_the_decodings(model, tokens, fitted):
    _, clean = model.run_with_cache(tokens)
    changed = [("clvq.1-2.hook_codes", other_codes)]
    with model.hooks(fwd_hooks=changed):
        logits, cache = model.run_with_cache(tokens)
    quantizer, codes = fitted.quantizer, clean["clvq.1-2.hook_codes"]
    encoded = clean["clvq.1-2.hook_encoded"]

    def decoded(c):
        return quantizer.decode(quantizer.codebook(c), encoded=encoded)

    expected = clean[TARGET] + decoded((codes + 1) % 12) - decoded(codes)
    torch.testing.assert_close(cache[TARGET], expected)
    assert not torch.equal(logits, model(tokens))


def test_a_hook_that_writes_in_place_acts_like_one_that_returns(model, tokens, fitted):
    def in_place(codes, hook):
        codes[:] = other_codes(codes, hook)

    returned = model.run_with_hooks(tokens, fwd_hooks=[("clvq.1-2.hook_codes", other_codes)])
    written = model.run_with_hooks(tokens, fwd_hooks=[("clvq.1-2.hook_codes", in_place)])
    assert torch.equal(returned, written)


def test_a_hook_that_returns_the_same_values_leaves_every_bit(model, tokens, fitted):
    plain = model(tokens)
    for point in HOOKS:
        hooked = model.run_with_hooks(
            tokens, fwd_hooks=[(f"clvq.1-2.{point}", lambda value, hook: value.clone())]
        )
        assert torch.equal(hooked, plain), point


@pytest.mark.parametrize("point", HOOKS)
def test_a_change_at_any_hook_point_reaches_the_logits(model, tokens, fitted, point):
    def change(value, hook):
        return other_codes(value, hook) if point == "hook_codes" else value + 1.0

    changed = model.run_with_hooks(tokens, fwd_hooks=[(f"clvq.1-2.{point}", change)])
    assert not torch.allclose(changed, model(tokens))


def test_a_change_at_one_position_leaves_earlier_logits_alone(model, tokens, fitted):
    def change_last(codes, hook):
        codes = codes.clone()
        codes[:, -1] = (codes[:, -1] + 1) % 12
        return codes

    changed = model.run_with_hooks(tokens, fwd_hooks=[("clvq.1-2.hook_codes", change_last)])
    plain = model(tokens)
    assert torch.equal(changed[:, :-1], plain[:, :-1])
    assert not torch.equal(changed[:, -1], plain[:, -1])


def test_gradients_reach_the_code_vectors_and_leave_the_logits_alone(model, tokens, fitted):
    plain = model(tokens, return_type="loss")
    loss, cache = model.run_with_cache(
        tokens, return_type="loss", incl_bwd=True, names_filter="clvq.1-2.hook_quantized"
    )
    assert torch.equal(loss, plain)
    assert cache["clvq.1-2.hook_quantized_grad"].abs().sum() > 0


def test_splice_replaces_the_target_by_the_reconstruction(model, tokens, fitted):
    with fitted.splice():
        _, cache = model.run_with_cache(tokens)
    assert torch.equal(cache[TARGET], cache["clvq.1-2.hook_recon"])
    assert torch.equal(model(tokens), model(tokens))


def test_splice_leaves_special_tokens_alone(toy):
    model, texts = toy
    lens = model.add_clvq(1, 2, n_codes=16)
    try:
        lens.fit(texts[:60], n_tokens=4_000, progress=False)
        tokens = model.to_tokens(texts[:3])
        _, clean = model.run_with_cache(tokens)
        with lens.splice():
            _, spliced = model.run_with_cache(tokens)
    finally:
        lens.remove()
    special = torch.isin(tokens, lens.host.vocabulary.special)
    assert special[:, 0].all()
    assert torch.equal(spliced[TARGET][special], clean[TARGET][special])
    assert torch.equal(spliced[TARGET][~special], spliced["clvq.1-2.hook_recon"][~special])


def test_source_and_target_may_be_the_same_point(model, tokens):
    lens = model.add_clvq(1, 1, n_codes=12)
    plain = model(tokens)
    _, cache = model.run_with_cache(tokens)
    assert torch.equal(model(tokens), plain)
    assert torch.equal(cache["clvq.1-1.hook_codes"], lens.quantizer.assign(cache[SOURCE]))


# ---- several quantizers --------------------------------------------------------------------------


@pytest.mark.parametrize("order", [("0-1", "1-2"), ("1-2", "0-1")])
def test_in_a_chain_writers_act_before_readers_whatever_the_order(model, tokens, order):
    for name in order:
        model.add_clvq(int(name[0]), int(name[2]), n_codes=12)
    change = [("clvq.0-1.hook_codes", other_codes)]
    with model.hooks(fwd_hooks=change):
        _, cache = model.run_with_cache(tokens)
    seen = model.clvqs["1-2"].quantizer.encode(cache[SOURCE])
    assert torch.equal(cache["clvq.1-2.hook_encoded"], seen)
    assert not torch.equal(cache[SOURCE], model.run_with_cache(tokens)[1][SOURCE])


def test_two_splices_of_one_target_raise_and_leave_the_model_alone(model, tokens, fitted):
    other = model.add_clvq(0, 2, n_codes=12)
    data = torch.randint(0, 40, (40, 16), generator=torch.Generator().manual_seed(3))
    other.fit(data, n_tokens=600, progress=False)
    plain = model(tokens)
    with (
        pytest.raises(SpliceConflictError, match=r"'0-2' already replaces .* Close the other"),
        other.splice(),
        fitted.splice(),
    ):
        pass
    assert torch.equal(model(tokens), plain)


# ---- passes of other kinds -----------------------------------------------------------------------


def test_a_pass_that_stops_before_the_target_leaves_nothing_behind(model, tokens, fitted):
    plain = model(tokens)
    with fitted.splice():
        model(tokens, stop_at_layer=2)
        model(tokens[:2], stop_at_layer=2)
    resid = model(tokens[:3], stop_at_layer=3)
    model.run_with_cache(resid, start_at_layer=3)
    assert torch.equal(model(tokens), plain)


@pytest.mark.parametrize("decoder", ["transformer", "mlp", "table"])
@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_generation_with_and_without_the_cache_agrees_under_edits(toy, decoder, padding_side):
    model, texts = toy
    lens = model.add_clvq(1, 2, n_codes=16, decoder=decoder)
    try:
        lens.fit(texts[:60], n_tokens=4_000, progress=False)
        prompts = [" ".join(text.split()[:n]) for text, n in zip(texts[:3], (5, 9, 7), strict=True)]
        tokens = model.to_tokens(prompts, padding_side=padding_side)
        if padding_side == "right":
            tokens = tokens[:, :6]  # no padding inside: generation goes on from the last column

        def generate(use_cache):
            return model.generate(
                tokens,
                max_new_tokens=12,
                do_sample=False,
                use_past_kv_cache=use_cache,
                stop_at_eos=False,
                verbose=False,
                padding_side=padding_side,
            )

        def change(codes, hook):
            return torch.where(codes == codes[:, -1:], (codes + 5) % 16, codes)

        plain = generate(True)
        for context in (
            lens.splice(),
            model.hooks(fwd_hooks=[("clvq.1-2.hook_codes", lambda c, hook: (c + 5) % 16)]),
        ):
            with context:
                cached, uncached = generate(True), generate(False)
            assert torch.equal(cached, uncached)
            assert not torch.equal(cached, plain)
    finally:
        lens.remove()


def test_left_padding_does_not_change_the_spliced_logits_of_a_text(toy):
    model, texts = toy
    lens = model.add_clvq(1, 2, n_codes=16)
    try:
        lens.fit(texts[:60], n_tokens=4_000, progress=False)
        short = " ".join(texts[0].split()[:6])
        both = [short, texts[1]]
        with lens.splice():
            alone = model(short, padding_side="left")[0]
            padded = model(model.to_tokens(both, padding_side="left"), padding_side="left")[0]
        torch.testing.assert_close(padded[-len(alone) :], alone, atol=1e-4, rtol=1e-4)
    finally:
        lens.remove()


def test_a_cache_filled_before_attaching_is_refused_when_codes_are_edited(toy):
    from transformer_lens import TransformerLensKeyValueCache

    model, texts = toy
    cache = TransformerLensKeyValueCache.init_cache(model.cfg, "cpu", 1)
    tokens = model.to_tokens(texts[0])
    model(tokens[:, :5], past_kv_cache=cache)
    lens = model.add_clvq(1, 2, n_codes=16)
    try:
        plain = model(tokens[:, 5:6], past_kv_cache=cache)
        assert plain.shape[1] == 1
        with pytest.raises(ShapeError, match="from before the quantizer was attached"):
            model.run_with_hooks(
                tokens[:, 6:7],
                past_kv_cache=cache,
                fwd_hooks=[("clvq.1-2.hook_codes", lambda c, hook: (c + 1) % 16)],
            )
        for entry in cache:  # emptied, it holds nothing that was not seen
            entry.past_keys, entry.past_values = entry.past_keys[:, :0], entry.past_values[:, :0]
        cache.previous_attention_mask = cache.previous_attention_mask[:, :0]
        model.run_with_hooks(
            tokens[:, :5],
            past_kv_cache=cache,
            fwd_hooks=[("clvq.1-2.hook_codes", lambda c, hook: (c + 1) % 16)],
        )
    finally:
        lens.remove()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_keep_their_dtype_and_bits(tokens, dtype):
    model = random_model(dtype=dtype)
    plain = model(tokens)
    lens = model.add_clvq(1, 2, n_codes=12)
    data = torch.randint(0, 40, (40, 16), generator=torch.Generator().manual_seed(3))
    lens.fit(data, n_tokens=600, progress=False)
    assert torch.equal(model.run_with_cache(tokens)[0], plain)
    changed = model.run_with_hooks(tokens, fwd_hooks=[("clvq.1-2.hook_codes", other_codes)])
    assert changed.dtype == dtype
    assert not torch.equal(changed, plain)
    with lens.splice():
        assert model(tokens).dtype == dtype


def test_works_without_gradients_and_under_inference_mode(model, tokens, fitted):
    expected = model.run_with_hooks(tokens, fwd_hooks=[("clvq.1-2.hook_codes", other_codes)])
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            got = model.run_with_hooks(tokens, fwd_hooks=[("clvq.1-2.hook_codes", other_codes)])
        assert torch.equal(got, expected)


# ---- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((1, "blocks.2.hook_resid"), HookNotFoundError, r"Closest: 'blocks\.2\.hook_resid_p"),
        ((1, "nonsense"), HookNotFoundError, "Pass a layer number"),
        ((1, 9), HookNotFoundError, r"No layer 9 .* layers 0 to 3"),
        ((-1, 2), HookNotFoundError, "No layer -1"),
        ((2, 1), LayerOrderError, "swap them"),
        (("blocks.2.hook_resid_post", "blocks.2.hook_resid_pre"), LayerOrderError, "swap them"),
        ((1, "blocks.2.attn.hook_q"), ShapeError, "does not carry one vector per token"),
        ((1,), ConfigError, "both source=.* and target="),
    ],
)
def test_bad_places_are_refused_and_leave_the_model_as_it_was(model, arguments, error, message):
    before = state(model)
    with pytest.raises(error, match=message):
        model.add_clvq(*arguments)
    assert_same_state(before, state(model))


def test_bad_options_are_refused_with_the_closest_name(model):
    before = state(model)
    with pytest.raises(ConfigError, match=r"no option 'n_code'. Closest: 'n_codes'"):
        model.add_clvq(1, 2, n_code=12)
    with pytest.raises(ConfigError, match="top_k is 5, but there are only 4 codes"):
        model.add_clvq(1, 2, n_codes=4)
    with pytest.raises(ConfigError, match="does not divide the target width 16"):
        model.add_clvq(1, 2, n_codes=12, decoder_heads=5)
    assert_same_state(before, state(model))


def test_a_name_can_be_used_once(model):
    model.add_clvq(1, 2, n_codes=12)
    with pytest.raises(NameTakenError, match=r"model.clvqs\['1-2'\].remove"):
        model.add_clvq(1, 2, n_codes=12)


def test_something_that_is_no_model_is_refused():
    with pytest.raises(UnsupportedHostError, match=r"attached to Linear\. Pass a Hooked"):
        cl.add_clvq(torch.nn.Linear(2, 2), 0, 1)


def test_verbs_that_need_a_fit_say_so(model, tokens):
    lens = model.add_clvq(1, 2, n_codes=12)
    for verb in (lens.encode, lens.evaluate, lens.concepts):
        with pytest.raises(NotFittedError, match=r"Call lens.fit\(data\) first"):
            verb(tokens)
    with pytest.raises(NotFittedError, match="has not been fitted"), lens.splice():
        pass


def test_a_removed_lens_says_how_to_attach_it_again(fitted, tokens):
    fitted.remove()
    for verb in (fitted.encode, fitted.evaluate, fitted.concepts, fitted.fit):
        with pytest.raises(DetachedError, match=r"model.add_clvq\(quantizer=lens.quantizer\)"):
            verb(tokens)
    with pytest.raises(DetachedError, match="'1-2' was removed"), fitted.splice():
        pass


# ---- attaching a fitted quantizer ----------------------------------------------------------------


def test_a_saved_quantizer_gives_the_same_codes_on_the_same_model(model, tokens, fitted, tmp_path):
    expected = fitted.encode(tokens).codes
    fitted.save(tmp_path / "run")
    lens = random_model().add_clvq(quantizer=cl.load(tmp_path / "run"))
    assert lens.name == "1-2"
    assert torch.equal(lens.encode(tokens).codes, expected)


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        (
            {"seed": 1, "model_name": "other"},
            "19 of 19 .*: another model",
        ),
        ({"d_model": 32, "d_head": 8}, "d_model: 16, not 32"),
        ({"n_layers": 5}, "n_layers: 4, not 5"),
        ({"d_vocab": 41}, "d_vocab: 40, not 41"),
        ({"dtype": torch.bfloat16}, "dtype: 'float32', not 'bfloat16'"),
        ({"normalization_type": "LNPre"}, "layer_norm_folded: False, not True"),
    ],
)
def test_a_quantizer_refuses_another_model(fitted, changes, difference):
    other = random_model(**changes)
    before = state(other)
    with pytest.raises(HostMismatchError, match=difference):
        other.add_clvq(quantizer=fitted.quantizer)
    assert_same_state(before, state(other))


def test_a_quantizer_refuses_processed_weights(fitted):
    other = random_model()
    other.process_weights_(fold_ln=False, center_writing_weights=True, center_unembed=False)
    with pytest.raises(HostMismatchError, match="weights_centered: False, not True"):
        other.add_clvq(quantizer=fitted.quantizer)


def test_a_quantizer_without_those_layers_is_refused(fitted):
    with pytest.raises(HookNotFoundError, match=r"No hook point 'blocks\.2\.hook_resid_post'"):
        random_model(n_layers=2).add_clvq(quantizer=fitted.quantizer)


def test_a_fitted_quantizer_brings_its_own_options(model, fitted):
    with pytest.raises(ConfigError, match="brings its own source, target and options"):
        model.add_clvq(1, 2, quantizer=fitted.quantizer)


def test_a_quantizer_of_unknown_origin_is_refused(model):
    stray = cl.CrossLayerQuantizer(cl.CLVQConfig(n_codes=12), 16, 16)
    with pytest.raises(HostMismatchError, match="does not say which model"):
        model.add_clvq(quantizer=stray)


def test_repr_says_what_it_is(fitted):
    assert repr(fitted) == f"Lens('1-2': {SOURCE} -> {TARGET}, 12 codes, fitted)"
    fitted.remove()
    assert repr(fitted).endswith("fitted, removed)")


def test_a_deep_copy_of_the_model_computes_the_same(model, tokens, fitted):
    assert torch.equal(copy.deepcopy(model)(tokens), model(tokens))


def test_passes_of_single_tokens_do_not_pile_up_in_memory(model):
    lens = model.add_clvq(1, 2, n_codes=12)
    for _ in range(3 * model.cfg.n_ctx):
        model(torch.zeros(2, 1, dtype=torch.long), stop_at_layer=0)
    assert lens.attachment._watcher._pass.text.tokens.shape[1] <= model.cfg.n_ctx
