"""What is particular to bridges: two names of one place, a late change of mode, kept patterns."""

import copy

import pytest
import torch

import clvq_lens as cl
from clvq_lens.errors import HookNotFoundError, HostMismatchError
from tests.host.contract.checks import (
    CODES,
    POINTS,
    codes_of,
    on,
    on_bridges,
)
from tests.host.states import assert_same_state, state
from tests.hosts import KINDS, MAJOR, words

by_name = {kind.name: kind for kind in KINDS}
on_unprocessed_bridges = on(kind for kind in KINDS if f"{kind.name}-compat" in by_name)


@on_bridges
def test_other_spellings_of_a_residual_stream_are_one_name(kind, model):
    spellings = {
        "blocks.1.hook_in": "blocks.1.hook_resid_pre",
        "blocks.1.hook_resid_pre": "blocks.1.hook_resid_pre",
        "blocks.1.hook_out": "blocks.1.hook_resid_post",
    }
    for spelling, name in spellings.items():
        assert model.add_clvq(spelling, 3, name=spelling, n_codes=12).source == name


@on_bridges
@pytest.mark.parametrize("spelling", ["blocks.2.hook_resid_post", "blocks.2.hook_out"])
def test_a_users_hook_fires_once_by_either_name(kind, model, lens, tokens, spelling):
    calls = []
    model.add_hook(spelling, lambda value, hook: calls.append("added"))
    hooks = [(spelling, lambda value, hook: calls.append("run"))]
    with lens.edit(cl.Force(3)):
        model.run_with_hooks(tokens, fwd_hooks=hooks)
    assert sorted(calls) == ["added", "run"]


@on_bridges
@pytest.mark.parametrize("where", ["source", "target"])
def test_the_middle_of_a_block_is_refused_with_the_reason(kind, model, where):
    middle = "blocks.1.hook_resid_mid"
    arguments = (middle, 3) if where == "source" else (0, middle)
    before = state(model)
    if middle in model.hook_dict:
        message = r"hook_resid_mid' is only the input of the MLP.* Pass 'blocks\.1\.hook_resid_pre'"
    else:  # attention and MLP side by side
        message = "No hook point 'blocks.1.hook_resid_mid'"
    with pytest.raises(HookNotFoundError, match=message):
        model.add_clvq(*arguments, n_codes=12)
    assert_same_state(before, state(model))


@on_bridges
def test_names_and_codes_outlive_a_late_compatibility_mode(kind, quantizer, tokens):
    model = kind.model()
    lens = model.add_clvq(quantizer=copy.deepcopy(quantizer))
    codes, logits = codes_of(model, tokens), model(tokens)
    model.enable_compatibility_mode(no_processing=True)
    assert set(POINTS) <= set(model.hook_dict)
    assert torch.equal(codes_of(model, tokens), codes)
    assert torch.equal(lens.encode(tokens).codes, codes)
    seen = []
    model.add_hook(CODES, lambda found, hook: seen.append(found))
    with lens.splice():
        assert not torch.equal(model(tokens), logits)
    assert len(seen) == 1
    lens.remove()
    assert not set(POINTS) & set(model.hook_dict)
    assert torch.equal(model(tokens), logits)


@on_unprocessed_bridges
def test_weights_processed_under_a_quantizer_are_noticed(kind, quantizer, tokens):
    model = kind.model()
    lens = model.add_clvq(quantizer=copy.deepcopy(quantizer))
    model.enable_compatibility_mode()
    for verb in (lens.encode, lens.evaluate, lens.concepts):
        with pytest.raises(HostMismatchError, match="cast or processed after '1-2'"):
            verb(tokens)
    for block in (lens.splice(), lens.edit(cl.Force(3)), lens.project_out(3)):
        with (
            pytest.raises(HostMismatchError, match="cast or processed after '1-2'"),
            block,
        ):
            model(tokens)
    lens.fit(words(20, 16, seed=2), n_tokens=300, batch_tokens=128, progress=False)
    assert lens.encode(tokens).codes.shape == (4, 12)  # fitted again, it belongs here


@on_unprocessed_bridges
def test_a_quantizer_refuses_weights_that_were_processed_otherwise(kind):
    processed = by_name[f"{kind.name}-compat"]
    for here, there in ((kind, processed), (processed, kind)):
        lens = here.model().add_clvq(1, 2, n_codes=12)
        with pytest.raises(HostMismatchError, match="layer_norm_folded"):
            there.model().add_clvq(quantizer=lens.quantizer)


@on_bridges
def test_streaming_keeps_no_attention_pattern(kind, model, lens, tokens):
    for block in model.blocks:
        block.attn.__dict__["_pattern"] = None  # of earlier passes of the user's own
    lens.encode(tokens)
    lens.evaluate(tokens, progress=False)
    lens.concepts(tokens, progress=False)
    assert [block.attn._pattern for block in model.blocks] == [None] * 4


if MAJOR >= 4:  # TransformerLens 3 has no start_at_layer on a bridge

    @on_bridges
    def test_a_pass_that_starts_between_source_and_target_is_not_edited(kind, model, lens, tokens):
        """The blocks below run there, too, on activations that are thrown away."""
        entering = model.run_with_cache(tokens)[1]["blocks.2.hook_resid_pre"]
        clean = model(entering, start_at_layer=2)
        with lens.edit(cl.Force(3)):
            assert torch.equal(model(entering, start_at_layer=2), clean)
            assert not torch.equal(model(tokens), clean)
