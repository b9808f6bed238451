"""Attaching to a HookedTransformer: what the contract with every kind of host does not cover."""

import pytest
import torch

import clvq_lens as cl
from clvq_lens.errors import (
    HookNotFoundError,
    HostMismatchError,
    ShapeError,
    UnsupportedHostError,
)
from tests.conftest import random_model
from tests.host.states import assert_same_state, state

TARGET = "blocks.2.hook_resid_post"


def test_removal_leaves_no_trace_of_the_first_quantizer_of_a_model(model, tokens):
    """The contract runs on models that had quantizers before."""
    before = state(model)
    lens = model.add_clvq(1, 2, n_codes=12)
    model.run_with_cache(tokens)
    for _ in range(2):
        lens.remove()
        assert_same_state(before, state(model))


def test_a_cache_with_gradients_has_those_of_the_code_vectors(model, tokens, fitted):
    plain = model(tokens, return_type="loss")
    loss, cache = model.run_with_cache(
        tokens, return_type="loss", incl_bwd=True, names_filter="clvq.1-2.hook_quantized"
    )
    assert torch.equal(loss, plain)
    assert cache["clvq.1-2.hook_quantized_grad"].abs().sum() > 0


def test_a_pass_that_starts_above_the_target_leaves_nothing_behind(model, tokens, fitted):
    plain = model(tokens)
    resid = model(tokens[:3], stop_at_layer=3)
    model.run_with_cache(resid, start_at_layer=3)
    assert torch.equal(model(tokens), plain)


@pytest.mark.parametrize("decoder", ["mlp", "table"])
@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_generation_with_and_without_the_cache_agrees_with_decoders_of_single_tokens(
    toy, decoder, padding_side
):
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

        plain = generate(True)
        for block in (
            lens.splice(),
            model.hooks(fwd_hooks=[("clvq.1-2.hook_codes", lambda c, hook: (c + 5) % 16)]),
        ):
            with block:
                cached, uncached = generate(True), generate(False)
            assert torch.equal(cached, uncached)
            assert not torch.equal(cached, plain)
    finally:
        lens.remove()


def test_a_cache_filled_before_attaching_is_refused_when_codes_are_edited(toy):
    from transformer_lens import TransformerLensKeyValueCache

    model, texts = toy
    cache = TransformerLensKeyValueCache.init_cache(model.cfg, "cpu", 1)
    tokens = model.to_tokens(texts[0])
    model(tokens[:, :5], past_kv_cache=cache)
    lens = model.add_clvq(1, 2, n_codes=16)
    change = [("clvq.1-2.hook_codes", lambda codes, hook: (codes + 1) % 16)]
    try:
        plain = model(tokens[:, 5:6], past_kv_cache=cache)
        assert plain.shape[1] == 1
        with pytest.raises(ShapeError, match="from before the quantizer was attached"):
            model.run_with_hooks(tokens[:, 6:7], past_kv_cache=cache, fwd_hooks=change)
        for entry in cache:  # emptied, it holds nothing that was not seen
            entry.past_keys, entry.past_values = entry.past_keys[:, :0], entry.past_values[:, :0]
        cache.previous_attention_mask = cache.previous_attention_mask[:, :0]
        model.run_with_hooks(tokens[:, :5], past_kv_cache=cache, fwd_hooks=change)
    finally:
        lens.remove()


def test_passes_of_single_tokens_do_not_pile_up_in_memory(model):
    lens = model.add_clvq(1, 2, n_codes=12)
    for _ in range(3 * model.cfg.n_ctx):
        model(torch.zeros(2, 1, dtype=torch.long), stop_at_layer=0)
    assert lens.attachment._running._watcher._pass.text.tokens.shape[1] <= model.cfg.n_ctx


# ---- what is refused -----------------------------------------------------------------------------


def test_a_hook_point_with_a_vector_for_each_head_is_refused(model):
    before = state(model)
    with pytest.raises(ShapeError, match="does not carry one vector per token"):
        model.add_clvq(1, "blocks.2.attn.hook_q")
    assert_same_state(before, state(model))


def test_something_that_is_no_model_is_refused():
    with pytest.raises(UnsupportedHostError, match=r"attached to Linear\. Pass a Hooked"):
        cl.add_clvq(torch.nn.Linear(2, 2), 0, 1)


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"seed": 1, "model_name": "other"}, "19 of 19 .*: another model"),
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


def test_a_quantizer_of_unknown_origin_is_refused(model):
    stray = cl.CrossLayerQuantizer(cl.CLVQConfig(n_codes=12), 16, 16)
    with pytest.raises(HostMismatchError, match="does not say which model"):
        model.add_clvq(quantizer=stray)


# ---- what it says of itself ----------------------------------------------------------------------


def test_repr_says_what_it_is(model, fitted):
    n_tokens = int(fitted.quantizer.usage.sum())
    points = f"{fitted.source} -> {TARGET}"
    assert repr(fitted) == f"Lens('1-2': {points}, 12 codes, fitted on {n_tokens:,} tokens)"
    fitted.remove()
    assert repr(fitted).endswith(" tokens, removed)")
    assert repr(model.add_clvq(1, 2, n_codes=12)).endswith(", 12 codes, not fitted)")
