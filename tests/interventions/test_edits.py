"""Edits of codes: what each one does, in which order, and that nothing stays behind."""

import dataclasses

import numpy as np
import pytest
import torch

import clvq_lens as cl
from clvq_lens.errors import (
    CodeRangeError,
    ConfigError,
    DetachedError,
    NotFittedError,
    PositionError,
    ShapeError,
    SpliceConflictError,
)
from clvq_lens.host.context import PassText
from clvq_lens.interventions.edits import Function
from clvq_lens.quantizer.draft import Draft
from tests.conftest import random_model
from tests.host.test_attach import assert_same_state, state

SOURCE, TARGET = "blocks.1.hook_resid_post", "blocks.2.hook_resid_post"
ENCODED, CODES, QUANTIZED, RECON = (
    f"clvq.1-2.hook_{name}" for name in ("encoded", "codes", "quantized", "recon")
)
DECODERS = ["transformer", "mlp", "table"]


def fit(lens):
    data = torch.randint(0, 40, (60, 16), generator=torch.Generator().manual_seed(2))
    lens.fit(data, n_tokens=2_000, batch_tokens=256, progress=False)
    return lens


@pytest.fixture(scope="module", params=DECODERS)
def any_lens(request):
    """A fitted lens on a model of its own, with each decoder; edits only."""
    return fit(random_model().add_clvq(1, 2, n_codes=12, top_k=3, decoder=request.param))


@pytest.fixture(scope="module")
def lens():
    """A fitted lens on a model of its own; edits only."""
    return fit(random_model().add_clvq(1, 2, n_codes=12, top_k=3))


@pytest.fixture(scope="module")
def two():
    """Two fitted lenses with the same target on one model; edits only."""
    model = random_model()
    return tuple(fit(model.add_clvq(source, 2, n_codes=12, top_k=3)) for source in (1, 0))


def run(lens, tokens, *edits, **options):
    """What passes the hook points under some edits."""
    with lens.edit(*edits, **options):
        return lens.model.run_with_cache(tokens)[1]


def logits(lens, tokens, *edits, **options):
    with lens.edit(*edits, **options):
        return lens.model(tokens)


def decode(lens, cache, vectors):
    return lens.quantizer.decode(vectors, encoded=cache[ENCODED])


def assert_edited(lens, tokens, edit, codes, vectors=None):
    """The edit gives these codes and vectors, and the target moves by what they decode to."""
    plain, edited = run(lens, tokens), run(lens, tokens, edit)
    table = lens.quantizer.codebook.vectors
    vectors = table[codes] if vectors is None else vectors
    assert torch.equal(edited[CODES], codes)
    torch.testing.assert_close(edited[QUANTIZED], vectors)
    difference = decode(lens, plain, vectors) - decode(lens, plain, table[plain[CODES]])
    torch.testing.assert_close(edited[TARGET], plain[TARGET] + difference)
    assert not torch.equal(edited[TARGET], plain[TARGET])
    torch.testing.assert_close(
        logits(lens, tokens, edit), lens.model(edited[TARGET], start_at_layer=3)
    )


def nearest(lens, cache, banned=()):
    """An oracle for the nearest code that is not banned."""
    distances = torch.cdist(cache[ENCODED].double(), lens.quantizer.codebook.vectors.double())
    distances[..., list(banned)] = torch.inf
    return distances.argmin(-1)


def frequent(lens, tokens, n=3):
    """The codes that some tokens use most."""
    codes = run(lens, tokens)[CODES]
    return codes.flatten().bincount().argsort(descending=True)[:n].tolist()


def usage_weighted(lens, rows):
    weights = lens.quantizer.usage.double() / lens.quantizer.usage.sum()
    return (weights.unsqueeze(1) * rows.double()).sum(0).float()


# ---- what each edit does -------------------------------------------------------------------------


def test_ablated_codes_give_way_to_the_nearest_others(any_lens, tokens):
    plain = run(any_lens, tokens)
    for n in (1, 3):
        gone = frequent(any_lens, tokens, n)
        assert_edited(any_lens, tokens, cl.Ablate(gone), nearest(any_lens, plain, gone))


def test_ablating_all_codes_but_one_leaves_that_one(any_lens, tokens):
    codes = torch.full((4, 12), 7)
    assert_edited(any_lens, tokens, cl.Ablate([c for c in range(12) if c != 7]), codes)


@pytest.mark.parametrize("decoder", ["transformer", "mlp"])
def test_ablation_to_the_mean_puts_the_mean_code_vector_in_and_leaves_the_codes(decoder, tokens):
    lens = fit(random_model().add_clvq(1, 2, n_codes=12, top_k=3, decoder=decoder))
    plain, gone = run(lens, tokens), frequent(lens, tokens, 2)
    table = lens.quantizer.codebook.vectors
    losing = torch.isin(plain[CODES], torch.tensor(gone)).unsqueeze(-1)
    vectors = torch.where(losing, usage_weighted(lens, table), table[plain[CODES]])
    assert_edited(lens, tokens, cl.Ablate(gone, to="mean"), plain[CODES], vectors)


def test_ablation_to_the_mean_gives_the_mean_of_a_table(tokens):
    lens = fit(random_model().add_clvq(1, 2, n_codes=12, top_k=3, decoder="table"))
    plain, gone = run(lens, tokens), frequent(lens, tokens, 2)
    edited = run(lens, tokens, cl.Ablate(gone, to="mean"))
    table = lens.quantizer.decoder.table
    losing = torch.isin(plain[CODES], torch.tensor(gone)).unsqueeze(-1)
    mean = usage_weighted(lens, table)
    assert (table - mean).norm(dim=1).min() > 1e-3  # no row of the table would do
    expected = torch.where(losing, mean, table[plain[CODES]])
    torch.testing.assert_close(edited[RECON], expected)
    moved = torch.where(losing, mean - table[plain[CODES]], 0.0)
    torch.testing.assert_close(edited[TARGET], plain[TARGET] + moved)


def test_a_mean_gives_way_to_a_later_edit_under_a_table(tokens):
    lens = fit(random_model().add_clvq(1, 2, n_codes=12, top_k=3, decoder="table"))
    a = frequent(lens, tokens, 1)[0]
    both = logits(lens, tokens, cl.Ablate(a, to="mean"), cl.Force(5))
    assert torch.equal(both, logits(lens, tokens, cl.Force(5)))


def test_resampled_codes_take_the_place_of_ablated_ones_alone(any_lens, tokens):
    plain, gone = run(any_lens, tokens), frequent(any_lens, tokens, 3)
    edit = cl.Ablate(gone, to="resample", seed=3)
    codes = run(any_lens, tokens, edit)[CODES]
    losing = torch.isin(plain[CODES], torch.tensor(gone))
    assert torch.equal(codes[~losing], plain[CODES][~losing])
    assert not torch.isin(codes, torch.tensor(gone)).any()
    assert len(codes[losing].unique()) > 1
    assert_edited(any_lens, tokens, edit, codes)


def test_swap_exchanges_two_codes(any_lens, tokens):
    a, b, _ = frequent(any_lens, tokens)
    plain = run(any_lens, tokens)[CODES]
    exchanged = [[{a: b, b: a}.get(code, code) for code in row] for row in plain.tolist()]
    assert_edited(any_lens, tokens, cl.Swap(a, b), torch.tensor(exchanged))


def test_force_puts_a_code_anywhere(any_lens, tokens):
    assert_edited(any_lens, tokens, cl.Force(5), torch.full((4, 12), 5))
    codes = run(any_lens, tokens)[CODES].clone()
    codes[:, 3] = (int(codes[0, 3]) + 1) % 12
    assert_edited(any_lens, tokens, cl.Force(int(codes[0, 3]), at=3), codes)


def test_restrict_leaves_the_nearest_of_some_codes(any_lens, tokens):
    allowed = frequent(any_lens, tokens, 4)[1:]
    banned = [code for code in range(12) if code not in allowed]
    codes = nearest(any_lens, run(any_lens, tokens), banned)
    assert_edited(any_lens, tokens, cl.Restrict(allowed), codes)


def test_patch_puts_the_codes_of_another_run_in(any_lens, tokens):
    other = run(any_lens, tokens.flip(0))[CODES]
    assert_edited(any_lens, tokens, cl.Patch(other), other)
    assert_edited(any_lens, tokens, cl.Patch(other[0]), other[:1].expand(4, -1))
    assert_edited(any_lens, tokens, cl.Patch(other[:1]), other[:1].expand(4, -1))
    assert_edited(any_lens, tokens, cl.Patch(other[0].tolist()), other[:1].expand(4, -1))


def test_patch_leaves_positions_with_minus_one_alone(any_lens, tokens):
    plain = run(any_lens, tokens)[CODES]
    patch = torch.where(torch.rand(4, 12, generator=torch.manual_seed(0)) < 0.5, -1, 5)
    codes = torch.where(patch == -1, plain, 5)
    assert_edited(any_lens, tokens, cl.Patch(patch), codes)


def test_patch_takes_the_codes_of_an_encoding(toy):
    model, texts = toy
    lens = model.add_clvq(1, 2, n_codes=16)
    try:
        lens.fit(texts[:60], n_tokens=4_000, progress=False)
        tokens = model.to_tokens(texts[:1])
        encoding = lens.encode(tokens)  # -1 at BOS
        with lens.edit(cl.Force(3, at=0), cl.Patch(encoding.codes)):
            codes = model.run_with_cache(tokens)[1][CODES]
        assert codes[0, 0] == 3
        assert torch.equal(codes[0, 1:], encoding.codes[0, 1:])
    finally:
        lens.remove()


@pytest.mark.parametrize("scale", [1.0, -2.5])
def test_steering_adds_the_direction_of_a_code_and_leaves_the_codes(any_lens, tokens, scale):
    code = frequent(any_lens, tokens, 1)[0]
    means = any_lens.quantizer.mean_target
    direction = means[code] - usage_weighted(any_lens, means)
    plain = run(any_lens, tokens)
    edited = run(any_lens, tokens, cl.Steer(code, scale, at=slice(2, 5)))
    assert torch.equal(edited[CODES], plain[CODES])
    assert torch.equal(edited[QUANTIZED], plain[QUANTIZED])
    moved = torch.zeros(4, 12, 16)
    moved[:, 2:5] = scale * direction
    torch.testing.assert_close(edited[TARGET], plain[TARGET] + moved)
    torch.testing.assert_close(edited[RECON], plain[RECON] + moved)


def test_a_function_is_given_codes_and_tokens_and_gives_codes(any_lens, tokens):
    plain, seen = run(any_lens, tokens)[CODES], []

    def shifted_at_even_tokens(codes, tokens):
        seen.append((codes.clone(), tokens.clone()))
        return torch.where(tokens % 2 == 0, (codes + 1) % 12, codes)

    codes = torch.where(tokens % 2 == 0, (plain + 1) % 12, plain)
    assert_edited(any_lens, tokens, shifted_at_even_tokens, codes)
    assert torch.equal(seen[0][0], plain)
    assert torch.equal(seen[0][1], tokens)


def test_a_function_may_write_into_its_codes_and_return_narrow_ones(lens, tokens):
    expected = logits(lens, tokens, cl.Force(5))
    assert torch.equal(logits(lens, tokens, lambda codes, _: codes.fill_(5)), expected)
    narrow = logits(lens, tokens, lambda codes, _: codes.fill_(5).int())
    assert torch.equal(narrow, expected)


def test_what_a_function_says_of_other_positions_is_not_taken(lens, tokens):
    here = torch.arange(12) == 2
    wild = Function(lambda codes, _: torch.where(here, 5, 999).expand(4, -1), at=2)
    assert torch.equal(logits(lens, tokens, wild), logits(lens, tokens, cl.Force(5, at=2)))


def test_an_edit_at_one_position_leaves_earlier_logits_alone(any_lens, tokens):
    plain = any_lens.model(tokens)
    code = (int(run(any_lens, tokens)[CODES][0, 6]) + 1) % 12
    found = logits(any_lens, tokens, cl.Force(code, at=6))
    assert torch.equal(found[:, :6], plain[:, :6])
    assert not torch.equal(found[0, 6], plain[0, 6])


def test_texts_that_an_edit_does_not_touch_keep_their_bits(lens, tokens):
    plain = run(lens, tokens)
    code = next(c for c in range(12) if 0 < (plain[CODES] == c).any(1).sum() < 4)
    without = ~(plain[CODES] == code).any(1)
    found = logits(lens, tokens, cl.Ablate(code))
    assert torch.equal(found[without], lens.model(tokens)[without])
    assert not torch.equal(found[~without], lens.model(tokens)[~without])


# ---- an edit that changes nothing ----------------------------------------------------------------

IDENTITIES = {
    "nothing": lambda codes, absent: [],
    "unused code ablated": lambda codes, absent: [cl.Ablate(absent)],
    "unused code to the mean": lambda codes, absent: [cl.Ablate(absent, to="mean")],
    "unused code resampled": lambda codes, absent: [cl.Ablate(absent, to="resample")],
    "no code ablated": lambda codes, absent: [cl.Ablate([])],
    "swap with itself": lambda codes, absent: [cl.Swap(int(codes[0, 0]), int(codes[0, 0]))],
    "swap of unused codes": lambda codes, absent: [cl.Swap(absent[0], absent[1])],
    "swap and back": lambda codes, absent: [cl.Swap(int(codes[0, 0]), absent[0])] * 2,
    "patch of own codes": lambda codes, absent: [cl.Patch(codes)],
    "patch of nothing": lambda codes, absent: [cl.Patch([-1] * 5)],
    "force of what is there": lambda codes, absent: [cl.Force(int(codes[0, 2]), at=2)],
    "force nowhere": lambda codes, absent: [cl.Force(absent[0], at=[])],
    "restrict to all": lambda codes, absent: [cl.Restrict(range(12))],
    "restrict to those in use": lambda codes, absent: [cl.Restrict(codes.unique().tolist())],
    "steer by nothing": lambda codes, absent: [cl.Steer(3, 0.0)],
    "identity": lambda codes, absent: [lambda codes, _: codes],
    "copy": lambda codes, absent: [lambda codes, _: codes.clone()],
}


@pytest.mark.parametrize("name", IDENTITIES)
def test_an_edit_that_changes_nothing_leaves_every_bit(any_lens, tokens, name):
    tokens = tokens[:1, :5]
    codes = run(any_lens, tokens)[CODES]
    absent = [code for code in range(12) if code not in codes]
    edits = IDENTITIES[name](codes, absent)
    plain, cache = any_lens.model.run_with_cache(tokens)
    with any_lens.edit(*edits):
        assert torch.equal(any_lens.model(tokens), plain)
        watched, edited = any_lens.model.run_with_cache(tokens)
    assert torch.equal(watched, plain)
    assert torch.equal(edited[CODES], codes)
    assert torch.equal(edited[RECON], cache[RECON])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_keep_their_bits_and_can_be_edited(tokens, dtype):
    lens = fit(random_model(dtype=dtype).add_clvq(1, 2, n_codes=12, top_k=3))
    plain = lens.model(tokens)
    own = run(lens, tokens)[CODES]
    assert torch.equal(logits(lens, tokens, cl.Patch(own)), plain)
    for edit in (cl.Force(5), cl.Ablate(frequent(lens, tokens, 2), "mean"), cl.Steer(5)):
        changed = logits(lens, tokens, edit)
        assert changed.dtype == dtype
        assert not torch.equal(changed, plain)


# ---- order and composition -----------------------------------------------------------------------


def pair_of_neighbours(lens, tokens):
    """Codes a and b where a is next when b is taken away."""
    cache = run(lens, tokens)
    codes = cache[CODES]
    for b in codes.unique().tolist():
        a = int(nearest(lens, cache, [b])[codes == b][0])
        if (codes == a).any():
            return a, b
    raise AssertionError("no two neighbours among the codes in use")


def test_an_ablated_code_does_not_come_back_with_the_next_ablation(any_lens, tokens):
    a, b = pair_of_neighbours(any_lens, tokens)
    assert (run(any_lens, tokens, cl.Ablate(b))[CODES] == a).any()  # it would
    expected = nearest(any_lens, run(any_lens, tokens), [a, b])
    for edits in (
        [cl.Ablate(a), cl.Ablate(b)],
        [cl.Ablate(b), cl.Ablate(a)],
        [cl.Ablate([a, b])],
        [cl.Ablate(a), cl.Restrict([c for c in range(12) if c != b])],
        [cl.Restrict([c for c in range(12) if c != a]), cl.Ablate(b)],
    ):
        assert torch.equal(run(any_lens, tokens, *edits)[CODES], expected), edits


def test_a_code_that_was_ablated_elsewhere_may_take_over(lens, tokens):
    a, b = pair_of_neighbours(lens, tokens)
    plain = run(lens, tokens)
    column = int((plain[CODES] == b).nonzero()[0, 1])
    elsewhere = [i for i in range(12) if i != column]
    found = run(lens, tokens, cl.Ablate(a, at=elsewhere), cl.Ablate(b))[CODES]
    assert torch.equal(found[:, column], nearest(lens, plain, [b])[:, column])
    assert torch.equal(found[:, elsewhere], nearest(lens, plain, [a, b])[:, elsewhere])


def test_force_after_ablate_wins_and_before_it_loses(lens, tokens):
    a = frequent(lens, tokens, 1)[0]
    found = run(lens, tokens, cl.Ablate(a), cl.Force(a, at=3))[CODES]
    assert (found[:, 3] == a).all()
    assert not (found[:, [0, 1, 2, *range(4, 12)]] == a).any()
    gone = run(lens, tokens, cl.Force(a, at=3), cl.Ablate(a))[CODES]
    assert torch.equal(gone, nearest(lens, run(lens, tokens), [a]))


def test_edits_act_in_the_order_given(lens, tokens):
    first = run(lens, tokens, cl.Force(3), cl.Swap(3, 5))[CODES]
    second = run(lens, tokens, cl.Swap(3, 5), cl.Force(3))[CODES]
    assert (first == 5).all()
    assert (second == 3).all()


def test_steering_twice_adds_up(lens, tokens):
    both = run(lens, tokens, cl.Steer(2), cl.Steer(3, 2.0, at=1), cl.Steer(2))[TARGET]
    moved = run(lens, tokens, cl.Steer(2, 2.0))[TARGET] - run(lens, tokens)[TARGET]
    expected = run(lens, tokens, cl.Steer(3, 2.0, at=1))[TARGET] + moved
    torch.testing.assert_close(both, expected)


def test_steering_and_codes_go_together(lens, tokens):
    both = run(lens, tokens, cl.Steer(2), cl.Force(5))
    moved = run(lens, tokens, cl.Steer(2))[TARGET] - run(lens, tokens)[TARGET]
    assert (both[CODES] == 5).all()
    torch.testing.assert_close(both[TARGET], run(lens, tokens, cl.Force(5))[TARGET] + moved)


def test_nested_blocks_are_one_block_with_the_outer_edits_first(any_lens, tokens):
    outer, inner = cl.Force(3, at=slice(0, 6)), cl.Swap(3, 5)
    with any_lens.edit(outer), any_lens.edit(inner):
        nested = any_lens.model(tokens)
    assert torch.equal(nested, logits(any_lens, tokens, outer, inner))
    assert not torch.equal(nested, logits(any_lens, tokens, inner, outer))


def test_the_same_edit_may_be_open_twice(lens, tokens):
    a, b, _ = frequent(lens, tokens)
    swap = cl.Swap(a, b)
    plain, swapped = lens.model(tokens), logits(lens, tokens, swap)
    with lens.edit(swap):
        with lens.edit(swap):
            assert torch.equal(lens.model(tokens), plain)
        assert torch.equal(lens.model(tokens), swapped)
    assert torch.equal(lens.model(tokens), plain)


def test_blocks_may_close_in_any_order(lens, tokens):
    plain = lens.model(tokens)
    first, second = lens.edit(cl.Force(3, at=1)), lens.edit(cl.Force(5, at=2))
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    of_second = lens.model(tokens)
    second.__exit__(None, None, None)
    assert torch.equal(of_second, logits(lens, tokens, cl.Force(5, at=2)))
    assert torch.equal(lens.model(tokens), plain)


def test_one_edit_serves_many_blocks_and_lenses(two, tokens):
    near, far = two
    edit = cl.Ablate(3, to="resample", seed=1)
    expected = [logits(lens, tokens, cl.Ablate(3, to="resample", seed=1)) for lens in two]
    for _ in range(2):
        assert torch.equal(logits(near, tokens, edit), expected[0])
        assert torch.equal(logits(far, tokens, edit), expected[1])


def test_edits_of_two_lenses_with_one_target_add_up(two, tokens):
    near, far = two
    plain = run(near, tokens)[TARGET]
    moved = sum(run(lens, tokens, cl.Force(5))[TARGET] - plain for lens in two)
    with near.edit(cl.Force(5)), far.edit(cl.Force(5)):
        both = near.model.run_with_cache(tokens)[1][TARGET]
    torch.testing.assert_close(both, plain + moved)


@pytest.mark.parametrize("order", [("0-1", "1-2"), ("1-2", "0-1")])
def test_in_a_chain_an_edit_is_seen_and_edited_by_the_next_lens(tokens, order):
    model = random_model()
    for name in order:
        fit(model.add_clvq(int(name[0]), int(name[2]), n_codes=12, top_k=3))
    lower, upper = model.clvqs["0-1"], model.clvqs["1-2"]
    plain = run(upper, tokens)
    a, b = 0, 10
    with lower.edit(cl.Force(5)), upper.edit(cl.Swap(a, b)):
        cache = model.run_with_cache(tokens)[1]
    assert not torch.equal(cache[SOURCE], plain[SOURCE])
    assert torch.equal(cache[ENCODED], upper.quantizer.encode(cache[SOURCE]))
    own = upper.quantizer.assign(cache[SOURCE])
    assert not torch.equal(own, plain[CODES])
    assert torch.isin(own, torch.tensor([a, b])).any()
    assert torch.equal(cache[CODES], torch.where(own == a, b, torch.where(own == b, a, own)))


# ---- nothing stays behind ------------------------------------------------------------------------


def test_a_block_leaves_the_model_as_it_was(any_lens, tokens):
    model = any_lens.model
    plain, before = model(tokens), state(model)
    with any_lens.edit(cl.Force(5), cl.Steer(3)):
        assert not torch.equal(model(tokens), plain)
    assert torch.equal(model(tokens), plain)
    assert_same_state(before, state(model))
    assert any_lens.attachment.edits == []


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


# ---- two lenses that want the same target --------------------------------------------------------


def splicing(lens):
    return lens.splice()


def editing(lens):
    return lens.edit(cl.Force(5))


def replacing(lens):
    return lens.edit(cl.Force(5), error_term=False)


@pytest.mark.parametrize(
    ("outer", "inner", "message"),
    [
        (splicing, splicing, "'0-2' already replaces .* so '1-2' cannot replace it too. Close"),
        (replacing, splicing, "'0-2' already replaces .* so '1-2' cannot replace it too. Close"),
        (splicing, replacing, "'0-2' already replaces .* so '1-2' cannot replace it too. Close"),
        (splicing, editing, "'0-2' already replaces .* edit of '1-2' would be lost. Close the sp"),
        (replacing, editing, "'0-2' already replaces .* edit of '1-2' would be lost. Close the s"),
        (editing, splicing, "'0-2' already edits .* so '1-2' cannot replace it too. Close the ot"),
        (editing, replacing, "'0-2' already edits .* so '1-2' cannot replace it too. Close the o"),
    ],
)
def test_two_that_want_the_same_target_raise_and_the_first_goes_on(
    two, tokens, outer, inner, message
):
    near, far = two
    plain = near.model(tokens)
    with outer(far):
        alone = near.model(tokens)
        with pytest.raises(SpliceConflictError, match=message), inner(near):
            pytest.fail("the block was entered")
        assert torch.equal(near.model(tokens), alone)
    assert not torch.equal(alone, plain)
    assert torch.equal(near.model(tokens), plain)
    with inner(near):  # the other is closed
        assert not torch.equal(near.model(tokens), plain)


def test_a_splice_of_another_target_is_no_conflict(tokens):
    model = random_model()
    lower, upper = (fit(model.add_clvq(n, n + 1, n_codes=12, top_k=3)) for n in (0, 1))
    with lower.splice(), upper.edit(cl.Force(5), error_term=False):
        cache = model.run_with_cache(tokens)[1]
    assert torch.equal(cache[SOURCE], cache["clvq.0-1.hook_recon"])
    assert torch.equal(cache[TARGET], cache[RECON])


# ---- bad input -----------------------------------------------------------------------------------


def wrong_codes(value):
    return lambda codes, tokens: torch.full_like(codes, value)


@pytest.mark.parametrize(
    ("edits", "error", "message"),
    [
        (
            [cl.Ablate(12)],
            CodeRangeError,
            r"^Ablate\(codes=\(12,\)\) names code 12. Pass codes of .* 0 to 1",
        ),
        ([cl.Ablate([3, 40])], CodeRangeError, "names code 40. Pass codes of .* 0 to 11"),
        ([cl.Ablate(99, to="mean")], CodeRangeError, "names code 99"),
        ([cl.Swap(3, 12)], CodeRangeError, r"Swap\(a=3, b=12\) names code 12"),
        ([cl.Swap(-1, 3)], CodeRangeError, r"names code -1. Pass codes of .* 0 to 11"),
        ([cl.Force(12)], CodeRangeError, r"Force\(code=12\) names code 12"),
        ([cl.Force(-1)], CodeRangeError, "names code -1"),
        ([cl.Restrict([0, 12])], CodeRangeError, r"Restrict\(codes=\(0, 12\)\) names code 12"),
        ([cl.Steer(12)], CodeRangeError, r"Steer\(code=12\) names code 12"),
        ([cl.Steer(-2)], CodeRangeError, "names code -2"),
        ([cl.Patch([12] * 12)], CodeRangeError, "names code 12"),
        ([cl.Patch([-2] * 12)], CodeRangeError, "names code -2"),
        ([cl.Force(3), cl.Force(12)], CodeRangeError, "names code 12"),
        ([cl.Ablate(range(12))], CodeRangeError, r"no code to choose at some position\. Leave at "),
        (
            [cl.Restrict([3]), cl.Ablate(3)],
            CodeRangeError,
            r"no code to choose at some position\. Leave at least one",
        ),
        (
            [cl.Ablate(range(12), to="resample")],
            CodeRangeError,
            r"^Ablate.* leaves no used code to draw from\. Ablate fewer codes",
        ),
        ([cl.Patch([3] * 11)], PositionError, r"codes of shape \[11\], but .* \[4, 12\]\. Pass on"),
        (
            [cl.Patch(torch.full((3, 12), 3))],
            PositionError,
            r"codes of shape \[3, 12\], but the text has shape \[4, 12\]",
        ),
        ([cl.Force(3, at=12)], PositionError, "Position 12 lies beyond the text"),
        ([lambda codes, _: codes[:, 1:]], ShapeError, r"shape \[4, 11\]; expected .*\[4, 12\]\. R"),
        ([lambda codes, _: codes.float()], ShapeError, r"returned torch\.float32 .* torch\.int64"),
        ([lambda codes, _: codes == 1], ShapeError, r"returned torch\.bool"),
        (
            [wrong_codes(12)],
            CodeRangeError,
            "returned codes from 12 to 12. Return codes of .* 0 to 11",
        ),
        ([wrong_codes(-1)], CodeRangeError, "returned codes from -1 to -1"),
        (["Ablate"], ConfigError, r"^'Ablate' is no edit\. Pass clvq_lens\.Ablate, .* or a funct"),
        ([[cl.Ablate(1)]], ConfigError, r"^\[Ablate\(codes=\(1,\)\)\] is no edit"),
        ([None], ConfigError, "^None is no edit"),
    ],
)
def test_a_bad_edit_says_why_and_leaves_the_model_alone(
    lens, tokens, as_for_a_user, edits, error, message
):
    plain, before = lens.model(tokens), state(lens.model)
    for error_term in (True, False):
        with pytest.raises(error, match=message), lens.edit(*edits, error_term=error_term):
            lens.model(tokens)
    assert torch.equal(lens.model(tokens), plain)
    assert_same_state(before, state(lens.model))


def test_codes_are_checked_before_the_block_opens(lens):
    with pytest.raises(CodeRangeError, match="names code 12"), lens.edit(cl.Force(12)):
        pytest.fail("the block was entered")


@pytest.mark.parametrize(
    "make",
    [np.int64, np.array, torch.tensor, lambda code: np.array([code])],
    ids=["int64", "array", "tensor", "list"],
)
def test_codes_of_numpy_and_torch_are_codes(as_for_a_user, make):
    assert cl.Ablate(make(3)).codes == (3,)
    assert cl.Force(make(3)).code == 3


def test_a_scale_beyond_all_numbers_is_refused_before_the_block_opens(lens):
    code = int(lens.quantizer.usage.argmax())
    with (
        pytest.raises(ConfigError, match="goes beyond the largest number"),
        lens.edit(cl.Steer(code, 1e300)),
    ):
        pytest.fail("the block was entered")


def test_a_function_that_writes_into_the_tokens_does_not_change_those_of_the_user(lens, tokens):
    given = tokens.clone()

    def write(codes, tokens):
        tokens.fill_(1)
        return codes

    with lens.edit(write, cl.Force(3, at=lambda tokens: tokens.fill_(0) == 0)):
        lens.model(given)
    assert torch.equal(given, tokens)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: cl.Ablate(1.5), ConfigError, r"^1\.5 is no code\. Pass whole numbers"),
        (lambda: cl.Ablate([1, 2.0]), ConfigError, r"^\[1, 2\.0\] is no code"),
        (lambda: cl.Ablate("3"), ConfigError, "^'3' is no code"),
        (lambda: cl.Swap(1, "b"), ConfigError, "^'b' is no code"),
        (lambda: cl.Force(None), ConfigError, "^None is no code"),
        (lambda: cl.Force(torch.tensor(1.0)), ConfigError, r"^tensor\(1\.\) is no code"),
        (lambda: cl.Restrict(0.5), ConfigError, "is no code"),
        (lambda: cl.Steer(0.5), ConfigError, "is no code"),
        (lambda: cl.Ablate(True), ConfigError, "^True is no code"),
        (lambda: cl.Ablate(1, seed=2**70), ConfigError, "^seed is 1180591620717411303424; pass"),
        (lambda: cl.Steer(1, float("nan")), ConfigError, "^Steer has scale=nan; pass a finite"),
        (lambda: cl.Steer(1, float("inf")), ConfigError, "^Steer has scale=inf"),
        (lambda: cl.Steer(1, "2"), ConfigError, "^Steer has scale='2'"),
        (lambda: cl.Steer(1, None), ConfigError, "^Steer has scale=None"),
        (lambda: cl.Steer(1, 2**2000), ConfigError, "^Steer has scale=1148"),
        (lambda: cl.Patch(None), ShapeError, "whole numbers .* not NoneType"),
        (lambda: cl.Patch([[1], [1, 2]]), ShapeError, "whole numbers .* not list"),
        (lambda: cl.Force(1, at=slice(0.5, 2)), PositionError, "names no positions"),
        (lambda: cl.Force(1, at=slice(0, 4, 0)), PositionError, "step cannot be zero"),
        (lambda: cl.Force(1, at=True), PositionError, "^True names no positions"),
        (
            lambda: cl.Ablate(1, to="zero"),
            ConfigError,
            r"to is 'zero'\. Pass one of 'nearest', 'mean'",
        ),
        (lambda: cl.Restrict([]), CodeRangeError, r"leaves no code to choose\. Name at least one"),
        (lambda: cl.Patch([0.5]), ShapeError, r"whole numbers .* not torch\.float32 of shape \[1"),
        (lambda: cl.Patch(torch.zeros(3)), ShapeError, r"Pass cache\['clvq\.<name>\.hook_codes'\]"),
        (lambda: cl.Patch([True, False]), ShapeError, r"not torch\.bool"),
        (lambda: cl.Patch(torch.zeros(1, 2, 3).long()), ShapeError, r"of shape \[1, 2, 3\]"),
        (lambda: cl.Patch(torch.tensor(3)), ShapeError, r"of shape \[\]"),
    ],
)
def test_an_edit_that_makes_no_sense_cannot_be_made(as_for_a_user, make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_steering_to_a_code_without_tokens_is_refused(fitted, tokens):
    fitted.quantizer.usage[3] = 0
    plain = fitted.model(tokens)
    with (
        pytest.raises(CodeRangeError, match=r"Steer\(code=3\) steers to a code that no training "),
        fitted.edit(cl.Steer(3)),
    ):
        pytest.fail("the block was entered")
    assert torch.equal(fitted.model(tokens), plain)


def test_resampling_among_codes_without_tokens_is_refused(fitted, tokens):
    fitted.quantizer.usage[:5] = 0
    with (
        pytest.raises(CodeRangeError, match=r"no used code to draw from\. Ablate fewer"),
        fitted.edit(cl.Ablate(range(5, 12), to="resample")),
    ):
        fitted.model(tokens)


def test_editing_needs_a_fitted_quantizer(model, tokens):
    lens = model.add_clvq(1, 2, n_codes=12)
    plain = model(tokens)
    with pytest.raises(NotFittedError, match=r"Call lens\.fit\(data\) first"), lens.edit():
        pytest.fail("the block was entered")
    assert torch.equal(model(tokens), plain)


@pytest.mark.parametrize("error_term", [True, False])
def test_editing_needs_an_attached_quantizer(fitted, error_term):
    fitted.remove()
    with (
        pytest.raises(DetachedError, match=r"'1-2' was removed .*add_clvq\(quantizer=lens\.quant"),
        fitted.edit(cl.Force(3), error_term=error_term),
    ):
        pytest.fail("the block was entered")


# ---- edits as values -----------------------------------------------------------------------------


def examples():
    return [
        cl.Ablate(3),
        cl.Ablate(3, to="mean"),
        cl.Ablate(3, to="resample"),
        cl.Ablate(3, to="resample", seed=1),
        cl.Ablate([3, 17], at=2),
        cl.Restrict(3),
        cl.Swap(1, 2),
        cl.Swap(2, 1),
        cl.Force(3),
        cl.Force(3, at=[1, 2]),
        cl.Force(3, at=-1),
        cl.Steer(3),
        cl.Steer(3, 2.0),
    ]


def test_edits_are_equal_and_hashed_by_value():
    edits, again = examples(), examples()
    assert edits == again
    assert [hash(edit) for edit in edits] == [hash(edit) for edit in again]
    assert len(set(edits + again)) == len(edits)
    for i, edit in enumerate(edits):
        assert [other == edit for other in again] == [i == j for j in range(len(edits))]


def test_codes_may_come_in_any_form(as_for_a_user):
    forms = [[3, 7], (3, 7), range(3, 8, 4), torch.tensor([3, 7]), iter([3, 7])]
    assert {cl.Ablate(form) for form in forms} == {cl.Ablate([3, 7])}
    assert cl.Ablate(torch.tensor(3)) == cl.Ablate([3]) == cl.Ablate(3)
    assert cl.Force(torch.tensor(3)) == cl.Force(3)
    assert type(cl.Force(torch.tensor(3)).code) is int


@pytest.mark.parametrize("edit", [*examples(), cl.Patch([1, 2])], ids=repr)
def test_edits_cannot_be_changed(edit):
    for f in dataclasses.fields(edit):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(edit, f.name, getattr(edit, f.name))


def test_an_edit_keeps_its_codes_when_the_callers_change(lens, tokens):
    codes = torch.full((12,), 3)
    patch, gone = cl.Patch(codes), [3]
    ablate = cl.Ablate(gone)
    codes += 2
    gone.append(5)
    assert (run(lens, tokens, patch)[CODES] == 3).all()
    assert ablate == cl.Ablate(3)


@pytest.mark.parametrize(
    ("edit", "shown"),
    [
        (cl.Ablate([3, 17], to="mean"), "Ablate(codes=(3, 17), to='mean')"),
        (cl.Ablate(3, "resample", seed=2), "Ablate(codes=(3,), to='resample', seed=2)"),
        (cl.Ablate(range(30)), "Ablate(codes=<int64 [30]>)"),
        (cl.Restrict([1, 2]), "Restrict(codes=(1, 2))"),
        (cl.Swap(1, 2), "Swap(a=1, b=2)"),
        (cl.Force(3, at=slice(1, 4)), "Force(code=3, at=slice(1, 4, None))"),
        (cl.Patch(torch.zeros(2, 5).long()), "Patch(codes=<int64 [2, 5]>)"),
        (cl.Steer(3, -1.5), "Steer(code=3, scale=-1.5)"),
        (Function(wrong_codes), "Function(function=wrong_codes)"),
    ],
)
def test_edits_can_be_printed(edit, shown):
    assert repr(edit) == shown


# ---- resampling ----------------------------------------------------------------------------------


def text_of(n_pos, n_past=0, n_batch=1):
    real = torch.ones(n_batch, n_pos, dtype=torch.bool)
    return PassText(tokens=None, real=real, n_past=n_past, n_given=n_past + n_pos)


def drawn(quantizer, edit, text):
    """What an edit draws where every position has its first code."""
    codes = torch.full(text.real.shape, edit.codes_named[0])
    vectors = quantizer.codebook(codes)
    return edit(Draft(vectors, codes, vectors), text, quantizer).codes


def test_draws_follow_the_shares_of_the_codes_that_are_left():
    quantizer = cl.CrossLayerQuantizer(cl.CLVQConfig(n_codes=7), 4, 4)
    quantizer.usage.copy_(torch.tensor([50, 10, 0, 20, 40, 30, 0]))
    n = 40_000
    codes = drawn(quantizer, cl.Ablate([4, 1], to="resample"), text_of(n))
    expected = torch.tensor([0.5, 0.0, 0.0, 0.2, 0.0, 0.3, 0.0])
    found = codes.flatten().bincount(minlength=7) / n
    assert not found[expected == 0].any()
    assert ((found - expected).abs() <= 4 * (expected * (1 - expected) / n).sqrt()).all()


def test_draws_of_a_text_go_on_as_they_began(lens, tokens):
    edit = cl.Ablate(range(9), to="resample", seed=4)
    short, long = run(lens, tokens[:, :7], edit)[CODES], run(lens, tokens, edit)[CODES]
    assert torch.equal(long[:, :7], short)
    whole = drawn(lens.quantizer, edit, text_of(10, n_batch=2))
    parts = [
        drawn(lens.quantizer, edit, text_of(n, past, 2)) for past, n in ((0, 4), (4, 5), (9, 1))
    ]
    assert torch.equal(torch.cat(parts, dim=1), whole)


def test_draws_depend_on_the_position_and_the_seed_alone(lens, tokens):
    edit = cl.Ablate(range(9), to="resample", seed=4)
    other_text = (tokens + 7) % 40
    plain = [run(lens, t)[CODES] for t in (tokens, other_text)]
    found = [run(lens, t, edit)[CODES] for t in (tokens, other_text)]
    both_lose = (plain[0] < 9) & (plain[1] < 9)
    assert both_lose.sum() > 10
    assert torch.equal(found[0][both_lose], found[1][both_lose])
    torch.manual_seed(123)  # no global state has a say
    assert torch.equal(run(lens, tokens, edit)[CODES], found[0])
    reseeded = run(lens, tokens, dataclasses.replace(edit, seed=5))[CODES]
    assert not torch.equal(reseeded, found[0])


def test_texts_of_a_batch_draw_apart(lens, tokens):
    same = tokens[:1].expand(4, -1)
    codes = run(lens, same, cl.Ablate(range(9), to="resample"))[CODES]
    assert len(codes.unique(dim=0)) > 1


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


# ---- bans, and what is no edit -------------------------------------------------------------------


@pytest.mark.parametrize("first", ["nearest", "mean", "resample"])
@pytest.mark.parametrize("second", ["nearest", "resample"])
def test_an_ablated_code_never_comes_back_whatever_took_its_place(tokens, first, second):
    model = random_model()
    data = torch.randint(0, 40, (60, 16), generator=torch.Generator().manual_seed(2))
    lens = model.add_clvq(1, 2, n_codes=12, top_k=3)
    lens.fit(data, n_tokens=3_000, batch_tokens=256, progress=False)
    clean = lens.encode(tokens).codes
    for a in range(12):
        for b in range(12):
            if a == b:
                continue
            with lens.edit(cl.Ablate(a, first), cl.Ablate(b, second, seed=a)):
                _, cache = model.run_with_cache(tokens, names_filter="clvq.1-2.hook_codes")
            codes = cache["clvq.1-2.hook_codes"]
            assert not (codes[clean == b] == a).any()
            assert not (codes[clean == b] == b).any()


def test_edits_with_slices_and_masks_can_be_keys_and_patches_are_only_themselves():
    assert hash(cl.Force(1, at=slice(0, 3))) == hash(cl.Force(1, at=slice(0, 3)))
    assert {cl.Ablate(1, at=[0, 1]): 1}[cl.Ablate([1], at=torch.tensor([0, 1]))] == 1
    patch = cl.Patch([1, 2])
    assert patch == patch
    assert patch != cl.Patch([1, 2])
    assert len({patch, cl.Patch([3, 4])}) == 2


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: cl.Force([1, 2]), ConfigError, r"Force takes one code for '.*', not \(1, 2\)"),
        (lambda: cl.Swap((1, 2), 3), ConfigError, r"Swap takes one code for '.*', not \(1, 2\)"),
        (lambda: cl.Force(1, at=[0.7, 1.9]), PositionError, "names no positions"),
        (lambda: cl.Force(1, at=1.5), PositionError, "names no positions"),
        (lambda: cl.Force(1, at=[[1], [2]]), PositionError, r"one axis.* Pass a boolean mask"),
    ],
)
def test_what_names_no_code_or_position_is_refused_at_once(as_for_a_user, make, error, match):
    with pytest.raises(error, match=match):
        make()
