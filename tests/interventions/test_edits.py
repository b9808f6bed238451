"""Edits of codes: what each one does, and that one which changes nothing keeps every bit."""

import dataclasses

import pytest
import torch

import clvq_lens as cl
from clvq_lens.host.context import PassText
from clvq_lens.interventions.edit_sequence import Function
from clvq_lens.quantizer.draft import Draft
from tests.conftest import random_model
from tests.interventions.lenses import (
    CODES,
    QUANTIZED,
    RECON,
    TARGET,
    assert_edited,
    fit,
    frequent,
    logits,
    nearest,
    run,
    usage_weighted,
)

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
