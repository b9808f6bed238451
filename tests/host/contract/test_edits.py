"""Edits act in the running model, restore exactly, and splices conflict where they must."""

import pytest
import torch

import clvq_lens as cl
from clvq_lens.errors import SpliceConflictError
from tests.host.contract.checks import (
    CODES,
    POINTS,
    codes_of,
    commonest,
    next_code,
    on_every_kind,
    on_one_kind,
    on_one_of_each_sort,
)
from tests.hosts import words

EDITS = {
    "ablate": lambda codes: cl.Ablate(codes),
    "ablate-to-mean": lambda codes: cl.Ablate(codes[0], to="mean"),
    "ablate-to-resample": lambda codes: cl.Ablate(codes[0], to="resample"),
    "swap": lambda codes: cl.Swap(*codes),
    "force": lambda codes: cl.Force(codes[0]),
    "restrict": lambda codes: cl.Restrict(codes),
    "patch": lambda codes: cl.Patch([codes[0]] * 12),
    "steer": lambda codes: cl.Steer(codes[0], 3.0),
    "function": lambda codes: lambda now, tokens: torch.where(tokens % 2 == 0, codes[0], now),
}


@pytest.fixture
def spliceable(model, lens):
    """A second fitted quantizer with the same target."""
    other = model.add_clvq(0, 2, n_codes=12, top_k=3)
    other.fit(words(20, 16, seed=3), n_tokens=300, batch_tokens=128, progress=False)
    return other


@pytest.mark.parametrize("point", POINTS)
def test_a_change_at_any_of_the_hook_points_reaches_the_logits(model, lens, tokens, point):
    def change(value, hook):
        return next_code(value, hook) if point == CODES else value.flip(-1)

    changed = model.run_with_hooks(tokens, fwd_hooks=[(point, change)])
    assert not torch.allclose(changed, model(tokens))


def test_a_hook_that_returns_the_same_values_leaves_every_bit(model, lens, tokens):
    plain = model(tokens)
    for point in POINTS:
        kept = model.run_with_hooks(tokens, fwd_hooks=[(point, lambda value, hook: value.clone())])
        assert torch.equal(kept, plain), point


def test_a_hook_that_writes_in_place_acts_like_one_that_returns(model, lens, tokens):
    def in_place(codes, hook):
        codes[:] = next_code(codes, hook)

    returned = model.run_with_hooks(tokens, fwd_hooks=[(CODES, next_code)])
    assert torch.equal(model.run_with_hooks(tokens, fwd_hooks=[(CODES, in_place)]), returned)


@on_one_of_each_sort
def test_the_error_is_that_of_the_clean_codes_under_an_edit_too(model, lens, tokens):
    name = "clvq.1-2.hook_error"
    clean = model.run_with_cache(tokens)[1][name]
    with lens.edit(cl.Ablate(commonest(lens, tokens))):
        assert torch.equal(model.run_with_cache(tokens)[1][name], clean)


@on_every_kind
def test_changed_codes_move_the_target_by_the_difference_of_the_decodings(
    kind, model, lens, tokens
):
    _, clean = model.run_with_cache(tokens)
    with model.hooks(fwd_hooks=[(CODES, next_code)]):
        _, cache = model.run_with_cache(tokens)
    codes, target = clean[CODES], kind.after(2)

    def decoded(codes):
        vectors = lens.quantizer.codebook(codes)
        return lens.quantizer.decode(vectors, encoded=clean["clvq.1-2.hook_encoded"])

    expected = clean[target] + decoded((codes + 1) % 12) - decoded(codes)
    torch.testing.assert_close(cache[target], expected)


@on_one_of_each_sort
@pytest.mark.parametrize("name", EDITS)
def test_every_edit_changes_the_logits_while_it_is_open_and_only_then(model, lens, tokens, name):
    plain = model(tokens)
    with lens.edit(EDITS[name](commonest(lens, tokens))):
        edited = model(tokens)
    assert not torch.allclose(edited, plain)
    assert torch.equal(model(tokens), plain)


@on_one_of_each_sort
def test_an_ablated_code_is_nowhere_and_the_codes_of_other_tokens_stay(model, lens, tokens):
    clean = codes_of(model, tokens)
    code, _ = commonest(lens, tokens)
    with lens.edit(cl.Ablate(code)):
        edited = codes_of(model, tokens)
    assert (clean == code).any()
    assert not (edited == code).any()
    assert torch.equal(edited[clean != code], clean[clean != code])


@on_one_of_each_sort
def test_an_edit_of_a_code_that_no_token_has_leaves_every_bit(model, lens, tokens):
    unused = sorted(set(range(12)) - set(codes_of(model, tokens[:1]).flatten().tolist()))
    plain = model(tokens[:1])
    with lens.edit(cl.Ablate(unused[0]), cl.Swap(unused[0], unused[0])):
        assert torch.equal(model(tokens[:1]), plain)


@on_one_of_each_sort
def test_an_inner_edit_edits_what_the_outer_one_left(model, lens, tokens):
    with lens.edit(cl.Force(5)):
        expected = model(tokens)
        with lens.edit(cl.Force(3)):
            assert not torch.equal(model(tokens), expected)
    with lens.edit(cl.Force(3)), lens.edit(cl.Swap(3, 5)):
        assert torch.equal(model(tokens), expected)


def test_edits_and_splices_are_over_after_their_body_raised(model, lens, tokens):
    plain = model(tokens)

    def body(block):
        with block:
            assert not torch.equal(model(tokens), plain)
            raise RuntimeError("in the body")

    for block in (lens.edit(cl.Force(3)), lens.splice(), lens.project_out(3)):
        with pytest.raises(RuntimeError, match="in the body"):
            body(block)
        assert torch.equal(model(tokens), plain)


def test_an_edit_at_one_position_leaves_earlier_logits_of_a_causal_model_alone(
    kind, model, lens, tokens
):
    plain = model(tokens)
    code = (codes_of(model, tokens)[0, 7].item() + 1) % 12
    with lens.edit(cl.Force(code, at=7)):
        edited = model(tokens)
    assert not torch.equal(edited[0, 7], plain[0, 7])
    assert torch.equal(edited[0, :7], plain[0, :7]) == kind.causal


@on_every_kind
def test_splice_replaces_the_target_by_the_reconstruction(kind, model, lens, tokens):
    with lens.splice():
        spliced, cache = model.run_with_cache(tokens)
    assert torch.equal(cache[kind.after(2)], cache["clvq.1-2.hook_recon"])
    assert not torch.allclose(spliced, model(tokens))


@on_one_of_each_sort
def test_an_edit_without_the_error_term_splices_the_edited_reconstruction(
    kind, model, lens, tokens
):
    with lens.edit(cl.Force(3), error_term=False):
        _, cache = model.run_with_cache(tokens)
    vectors = lens.quantizer.codebook(torch.full((4, 12), 3))
    expected = lens.quantizer.decode(vectors, encoded=cache["clvq.1-2.hook_encoded"])
    torch.testing.assert_close(cache[kind.after(2)], expected)


@pytest.mark.parametrize("at", ["source", "target"])
def test_a_direction_that_is_projected_out_is_gone_there(kind, model, lens, tokens, at):
    place = kind.after({"source": 1, "target": 2}[at])
    means = {"source": lens.quantizer.source_vectors, "target": lens.quantizer.mean_target}
    direction = means[at][commonest(lens, tokens)[0]]
    with lens.project_out(commonest(lens, tokens)[0], place=at, centered=False):
        _, cache = model.run_with_cache(tokens)
    left = cache[place] @ direction / direction.norm()
    torch.testing.assert_close(left, torch.zeros_like(left), atol=1e-5, rtol=0)


@pytest.mark.parametrize("order", [("0-1", "1-2"), ("1-2", "0-1")], ids="then".join)
def test_in_a_chain_writers_act_before_readers_whatever_the_order(kind, model, tokens, order):
    for name in order:
        model.add_clvq(int(name[0]), int(name[2]), n_codes=12)
    clean = model.run_with_cache(tokens)[1][kind.after(1)]
    with model.hooks(fwd_hooks=[("clvq.0-1.hook_codes", next_code)]):
        _, cache = model.run_with_cache(tokens)
    assert not torch.equal(cache[kind.after(1)], clean)
    seen = model.clvqs["1-2"].quantizer.encode(cache[kind.after(1)])
    assert torch.equal(cache["clvq.1-2.hook_encoded"], seen)


def test_source_and_target_may_be_the_same_point(kind, model, tokens):
    lens = model.add_clvq(1, 1, n_codes=12)
    plain = model(tokens)
    _, cache = model.run_with_cache(tokens)
    assert torch.equal(model(tokens), plain)
    expected = lens.quantizer.assign(cache[kind.after(1)])
    assert torch.equal(cache["clvq.1-1.hook_codes"], expected)


@on_one_kind
def test_two_splices_of_one_target_are_refused_and_leave_the_model_alone(
    model, lens, spliceable, tokens
):
    plain = model(tokens)
    for first, second in ((spliceable.splice(), lens.splice()), (lens.splice(), None)):
        second = second or spliceable.edit(cl.Force(3))
        with pytest.raises(SpliceConflictError, match="already replaces"), first, second:
            pass
    assert torch.equal(model(tokens), plain)
    with lens.splice():  # alone it still can
        assert not torch.equal(model(tokens), plain)
