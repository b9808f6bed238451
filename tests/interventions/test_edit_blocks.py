"""Blocks with edits: nothing stays behind, and what they are beside splices and hooks."""

import pytest
import torch

import clvq_lens as cl
from tests.conftest import random_model
from tests.host.states import assert_same_state, state
from tests.interventions.lenses import (
    CODES,
    ENCODED,
    RECON,
    TARGET,
    decode,
    fit,
    frequent,
    logits,
    nearest,
    run,
)

# ---- nothing stays behind ------------------------------------------------------------------------


def test_a_block_leaves_the_model_as_it_was(any_lens, tokens):
    model = any_lens.model
    plain, before = model(tokens), state(model)
    with any_lens.edit(cl.Force(5), cl.Steer(3)):
        assert not torch.equal(model(tokens), plain)
    assert torch.equal(model(tokens), plain)
    assert_same_state(before, state(model))
    assert any_lens.attachment.blocks.edits == []


@pytest.mark.parametrize("error_term", [True, False])
def test_a_block_whose_body_raises_leaves_the_model_as_it_was(lens, tokens, error_term):
    plain, before = lens.model(tokens), state(lens.model)
    with (
        pytest.raises(RuntimeError, match="in the body"),
        lens.edit(cl.Force(5), error_term=error_term),
    ):
        raise RuntimeError(f"in the body after {lens.model(tokens).shape}")
    assert torch.equal(lens.model(tokens), plain)
    assert_same_state(before, state(lens.model))


@pytest.mark.parametrize(
    "point", ["blocks.1.hook_resid_mid", CODES, RECON, TARGET, "blocks.3.hook_resid_mid"]
)
def test_a_pass_that_raises_leaves_the_model_as_it_was(lens, tokens, point):
    def failing(value, hook):
        raise RuntimeError("in a hook")

    plain, before = lens.model(tokens), state(lens.model)
    edited = logits(lens, tokens, cl.Force(5))
    with lens.edit(cl.Force(5)):
        with pytest.raises(RuntimeError, match="in a hook"):
            lens.model.run_with_hooks(tokens[:2, :7], fwd_hooks=[(point, failing)])
        assert torch.equal(lens.model(tokens), edited)
    assert torch.equal(lens.model(tokens), plain)
    assert_same_state(before, state(lens.model))


def test_an_edit_that_raises_leaves_the_model_as_it_was(lens, tokens):
    def failing(codes, tokens):
        raise RuntimeError("in an edit")

    plain, before = lens.model(tokens), state(lens.model)
    with pytest.raises(RuntimeError, match="in an edit"), lens.edit(cl.Force(5), failing):
        lens.model(tokens)
    assert torch.equal(lens.model(tokens), plain)
    assert_same_state(before, state(lens.model))


def test_a_lens_that_is_removed_inside_its_block_leaves_no_trace(tokens):
    model = random_model()
    before, plain = state(model), model(tokens)
    lens = fit(model.add_clvq(1, 2, n_codes=12, top_k=3))
    with lens.edit(cl.Force(5)):
        lens.remove()
        assert torch.equal(model(tokens), plain)
    assert_same_state(before, state(model))


# ---- without the error term ----------------------------------------------------------------------


def test_without_the_error_term_the_target_is_the_edited_reconstruction(any_lens, tokens):
    plain = run(any_lens, tokens)
    table = any_lens.quantizer.codebook.vectors
    for edit, codes in (
        (cl.Force(5, at=3), plain[CODES].index_fill(1, torch.tensor([3]), 5)),
        (cl.Patch(plain[CODES]), plain[CODES]),  # also where no code changes
    ):
        cache = run(any_lens, tokens, edit, error_term=False)
        assert torch.equal(cache[TARGET], cache[RECON])
        torch.testing.assert_close(cache[TARGET], decode(any_lens, plain, table[codes]))
        assert not torch.allclose(cache[TARGET], plain[TARGET])
    assert torch.equal(run(any_lens, tokens)[TARGET], plain[TARGET])


def test_without_the_error_term_an_edit_is_one_inside_a_splice(lens, tokens):
    found = logits(lens, tokens, cl.Force(5), cl.Steer(3), error_term=False)
    with lens.splice(), lens.edit(cl.Force(5), cl.Steer(3)):
        assert torch.equal(lens.model(tokens), found)
    with lens.edit(cl.Force(5), cl.Steer(3)), lens.splice():
        assert torch.equal(lens.model(tokens), found)
    with lens.splice():
        assert torch.equal(lens.model(tokens), logits(lens, tokens, error_term=False))


def test_special_tokens_keep_their_activations_under_edits(toy):
    model, texts = toy
    lens = model.add_clvq(1, 2, n_codes=16, decoder="mlp")
    try:
        lens.fit(texts[:60], n_tokens=4_000, progress=False)
        tokens = model.to_tokens(texts[:3])
        plain = model.run_with_cache(tokens)[1][TARGET]
        special = torch.isin(tokens, lens.host.vocabulary.special)
        for error_term in (True, False):
            with lens.edit(cl.Force(5), error_term=error_term):
                cache = model.run_with_cache(tokens)[1]
            assert torch.equal(cache[TARGET][special], plain[special])
            assert not torch.allclose(cache[TARGET][~special], plain[~special])
            if not error_term:
                assert torch.equal(cache[TARGET][~special], cache[RECON][~special])
    finally:
        lens.remove()


# ---- beside the user's hooks ---------------------------------------------------------------------


def test_a_users_hook_sees_the_edited_codes_and_can_change_them_further(any_lens, tokens):
    seen = []

    def one_more(codes, hook):
        seen.append(codes.clone())
        return codes + 1

    with any_lens.edit(cl.Force(3)):
        found = any_lens.model.run_with_hooks(tokens, fwd_hooks=[(CODES, one_more)])
    assert torch.equal(seen[0], torch.full((4, 12), 3))
    assert torch.equal(found, logits(any_lens, tokens, cl.Force(4)))


def test_a_users_hook_can_undo_an_edit(lens, tokens):
    own = run(lens, tokens)[CODES]
    with lens.edit(cl.Force(3)):
        found = lens.model.run_with_hooks(tokens, fwd_hooks=[(CODES, lambda codes, hook: own)])
    torch.testing.assert_close(found, lens.model(tokens))


def test_a_users_hook_at_the_target_sees_the_edited_activations(lens, tokens):
    seen = []
    model = lens.model
    expected = run(lens, tokens, cl.Force(3))[TARGET]
    hooks = [(TARGET, lambda value, hook: seen.append(value.clone()))]
    with model.hooks(fwd_hooks=hooks), lens.edit(cl.Force(3)):
        model(tokens)
    assert torch.equal(seen[0], expected)


def test_swap_and_force_are_what_a_hook_function_does(any_lens, tokens):
    a, b, _ = frequent(any_lens, tokens)
    functions = {
        cl.Swap(a, b): lambda codes, hook: torch.where(
            codes == a, b, torch.where(codes == b, a, codes)
        ),
        cl.Force(5): lambda codes, hook: torch.full_like(codes, 5),
        cl.Force(5, at=2): lambda codes, hook: codes.index_fill(1, torch.tensor([2]), 5),
    }
    for edit, function in functions.items():
        hooked = any_lens.model.run_with_hooks(tokens, fwd_hooks=[(CODES, function)])
        assert torch.equal(hooked, logits(any_lens, tokens, edit)), edit


def test_edits_of_the_encoder_output_and_of_codes_go_together(lens, tokens):
    banned = frequent(lens, tokens, 1)
    with lens.edit(cl.Ablate(banned)):
        hooks = [(ENCODED, lambda z, hook: z.flip(1))]
        with lens.model.hooks(fwd_hooks=hooks):
            cache = lens.model.run_with_cache(tokens)[1]
    plain = run(lens, tokens)
    assert torch.equal(cache[CODES], nearest(lens, plain, banned).flip(1))


def test_gradients_flow_through_the_model_under_an_edit(lens, tokens):
    seen = []
    hooks = [("blocks.0.hook_resid_post", lambda grad, hook: seen.append(grad.clone()))]
    with lens.edit(cl.Force(3), cl.Steer(2)), lens.model.hooks(bwd_hooks=hooks):
        lens.model(tokens, return_type="loss").backward()
    lens.model.zero_grad()
    assert seen[0].abs().sum() > 0
