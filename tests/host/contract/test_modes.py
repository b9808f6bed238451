"""Modes of the model and of torch, blocks that are open, and how layers may be named."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import clvq_lens as cl
from clvq_lens.errors import HookNotFoundError, HostMismatchError, ModeError, OpenBlockError
from tests.host.contract.checks import on_causal_kinds, on_one_kind, on_one_of_each_sort
from tests.hosts import words


def with_dropout(model):
    """Dropout behind every block, which is off in eval mode."""
    drop = nn.Dropout(0.5)

    def dropped(module, inputs, output):
        drop.train(module.training)
        first = output[0] if isinstance(output, tuple) else output
        return (drop(first), *output[1:]) if isinstance(output, tuple) else drop(first)

    return [block.register_forward_hook(dropped) for block in model.blocks]


def test_a_model_in_train_mode_is_read_in_eval_mode_and_left_as_it_was(model, lens, tokens):
    handles = with_dropout(model)
    expected = lens.encode(tokens).codes
    model.blocks[2].train()
    try:
        for _ in range(3):
            assert torch.equal(lens.encode(tokens).codes, expected)
        assert [block.training for block in model.blocks] == [False, False, True, False]
        model.train()
        assert torch.equal(lens.encode(tokens).codes, expected)
        assert all(module.training for module in model.modules())
    finally:
        model.eval()
        for handle in handles:
            handle.remove()


@on_one_kind
@pytest.mark.parametrize("block", ["edit", "splice", "project_out"])
def test_what_measures_or_fits_a_model_is_refused_inside_a_block_that_changes_it(
    lens, tokens, block
):
    opened = {
        "edit": lambda: lens.edit(cl.Force(3)),
        "splice": lens.splice,
        "project_out": lambda: lens.project_out(int(lens.quantizer.usage.argmax()), place="source"),
    }[block]
    before = {name: value.clone() for name, value in lens.quantizer.state_dict().items()}
    verbs = {
        "fit": lambda: lens.fit(tokens, progress=False),
        "fit a baseline": lambda: lens.baseline("k-means", tokens, progress=False),
        "evaluate": lambda: lens.evaluate(tokens, progress=False),
        "measure faithfulness": lambda: lens.faithfulness(["w5 w6"], [0], progress=False),
    }
    with opened():
        for what, verb in verbs.items():
            with pytest.raises(OpenBlockError, match=rf"Cannot {what} while .*\({block}\)"):
                verb()
        lens.encode(tokens)  # reads what the block left
    assert all(torch.equal(lens.quantizer.state_dict()[name], before[name]) for name in before)


@on_one_kind
def test_fits_are_refused_under_inference_mode_and_edits_work_there(kind, model, lens, tokens):
    with lens.edit(cl.Force(3)), torch.no_grad():
        expected = model(tokens)
    with torch.inference_mode():
        with pytest.raises(ModeError, match=r"A fit needs gradients, .*outside of that block"):
            lens.fit(tokens, progress=False)
        with lens.edit(cl.Force(3)):
            assert torch.equal(model(tokens), expected)


@on_one_of_each_sort
def test_a_quantizer_made_under_inference_mode_is_fitted_outside_of_it(model):
    with torch.inference_mode():
        lens = model.add_clvq(0, 1, n_codes=4, top_k=3)
    lens.fit(words(20, 12, seed=2), n_tokens=200, batch_tokens=64, progress=False)
    assert lens.quantizer.fitted


@on_one_kind
@pytest.mark.parametrize("one", [np.int64(1), torch.tensor(1), np.uint8(1)])
def test_any_kind_of_whole_number_is_a_layer(model, one):
    lens = model.add_clvq(one, 2, n_codes=4, top_k=3)
    assert lens.name == "1-2"
    assert lens.source == lens.host.resolve(1)


@on_one_kind
@pytest.mark.usefixtures("as_for_a_user")
@pytest.mark.parametrize("layer", [True, np.True_, torch.tensor(True), 1.0, None, torch.ones(2)])
def test_what_is_no_layer_is_refused(model, layer):
    with pytest.raises((HookNotFoundError, cl.errors.ConfigError), match="Pass"):
        model.add_clvq(layer, 2, n_codes=4, top_k=3)


def test_a_model_that_was_cast_after_attaching_is_noticed(kind, tokens):
    model = kind.model()
    lens = model.add_clvq(1, 2, n_codes=12, top_k=3)
    lens.fit(words(20, 16, seed=2), n_tokens=300, batch_tokens=128, progress=False)
    model.to(torch.bfloat16)
    with pytest.raises(HostMismatchError, match=r"\(float32.*, now bfloat16"):
        lens.encode(tokens)
    model.to(torch.float32)
    lens.encode(tokens)


@pytest.mark.parametrize("part", ["attn", "mlp"])
def test_other_weights_anywhere_below_the_target_are_refused(kind, quantizer, part):
    model = kind.model()
    with torch.no_grad():
        for parameter in getattr(model.blocks[2], part).parameters():
            parameter.mul_(1.01)
    with pytest.raises(HostMismatchError, match=r"blocks.2.\w+.W_\w+ \(by [12].\d%\): fine-tuned"):
        model.add_clvq(quantizer=copy.deepcopy(quantizer))
    lens = model.add_clvq(quantizer=copy.deepcopy(quantizer), check_weights=False)
    assert lens.quantizer.fitted


def test_other_weights_above_the_target_do_not_matter(kind, quantizer):
    model = kind.model()
    with torch.no_grad():
        for parameter in model.blocks[3].parameters():
            parameter.mul_(1.01)
    assert model.add_clvq(quantizer=copy.deepcopy(quantizer)).quantizer.fitted


@on_causal_kinds
@pytest.mark.parametrize("way", ["in place", "returned"])
def test_a_hook_on_the_prompt_alone_acts_on_what_is_generated(kind, model, lens, tokens, way):
    if not kind.has_cache:
        pytest.skip(f"{kind} has no key-value cache")

    def change(codes, hook):
        if codes.shape[1] == 1:
            return None  # a generated token
        changed = codes if way == "in place" else codes.clone()
        changed[:, 2] = (changed[:, 2] + 1) % 12
        return None if way == "in place" else changed

    def last_logits(use_cache):
        steps = []
        watch = ("unembed.hook_out", lambda logits, hook: steps.append(logits[:, -1]))
        with model.hooks(fwd_hooks=[("clvq.1-2.hook_codes", change), watch]):
            model.generate(
                tokens,
                max_new_tokens=6,
                do_sample=False,
                stop_at_eos=False,
                use_past_kv_cache=use_cache,
                verbose=False,
            )
        return torch.stack(steps)

    cached, uncached = last_logits(use_cache=True), last_logits(use_cache=False)
    torch.testing.assert_close(cached, uncached, atol=1e-4, rtol=1e-4)
