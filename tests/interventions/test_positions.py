"""Where edits act: numbers, slices, masks and functions, in whole texts and in parts of them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import clvq_lens as cl
from clvq_lens.errors import PositionError
from clvq_lens.host.context import PassText
from clvq_lens.interventions.positions import frozen_positions, over_positions, resolve_positions
from tests.conftest import random_model

CODES = "clvq.1-2.hook_codes"
CODE = 3


@pytest.fixture(scope="module")
def lens():
    return fitted_lens()


def fitted_lens():
    lens = random_model().add_clvq(1, 2, n_codes=12, top_k=3)
    data = torch.randint(0, 40, (60, 16), generator=torch.Generator().manual_seed(2))
    lens.fit(data, n_tokens=1_500, batch_tokens=256, progress=False)
    return lens


@pytest.fixture(scope="module")
def toy_lens(toy):
    model, texts = toy
    lens = model.add_clvq(1, 2, n_codes=16)
    lens.fit(texts[:60], n_tokens=4_000, progress=False)
    yield lens
    lens.remove()


def codes_of(lens, tokens, *edits, **options):
    with lens.edit(*edits):
        return lens.model.run_with_cache(tokens, names_filter=CODES, **options)[1][CODES]


def text(n_pos, *, n_past=0, n_given=None, tokens=None, n_batch=2):
    real = torch.ones(n_batch, n_pos, dtype=torch.bool)
    return PassText(tokens, real, n_past, n_past + n_pos if n_given is None else n_given)


def only(*numbers, n=12):
    return [number in numbers for number in range(n)]


# ---- in the model --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "columns"),
    [
        (0, [0]),
        (11, [11]),
        (-1, [11]),
        (-12, [0]),
        ([2, 5], [2, 5]),
        ((2, -2, 2), [2, 10]),
        ([], []),
        (torch.tensor([1, 4]), [1, 4]),
        (torch.tensor(4), [4]),
        (slice(None), range(12)),
        (slice(3, 6), [3, 4, 5]),
        (slice(-3, None), [9, 10, 11]),
        (slice(-3, -1), [9, 10]),
        (slice(None, -10), [0, 1]),
        (slice(1, None, 4), [1, 5, 9]),
        (slice(10, 99), [10, 11]),
        (slice(-99, 2), [0, 1]),
        (slice(12, None), []),
        (only(4, 7), [4, 7]),
        (torch.tensor(only(4, 7)), [4, 7]),
    ],
)
def test_an_edit_acts_exactly_where_it_says(lens, tokens, at, columns):
    expected = codes_of(lens, tokens).clone()
    expected[:, list(columns)] = CODE
    assert torch.equal(codes_of(lens, tokens, cl.Force(CODE, at=at)), expected)


@pytest.mark.parametrize("kind", [torch.tensor, list])
def test_a_mask_may_name_other_positions_in_each_text(lens, tokens, kind):
    rows = [only(0, 1), only(5), only(), only(11)]
    where = torch.tensor(rows)
    expected = torch.where(where, CODE, codes_of(lens, tokens))
    assert torch.equal(codes_of(lens, tokens, cl.Force(CODE, at=kind(rows))), expected)
    one = torch.tensor(rows[:1])
    expected = torch.where(one, CODE, codes_of(lens, tokens))
    assert torch.equal(codes_of(lens, tokens, cl.Force(CODE, at=one)), expected)


def test_a_function_of_the_tokens_names_positions(lens, tokens):
    found = codes_of(lens, tokens, cl.Force(CODE, at=lambda t: t % 3 == 0))
    assert torch.equal(found, torch.where(tokens % 3 == 0, CODE, codes_of(lens, tokens)))


def test_every_kind_of_edit_keeps_to_its_positions(lens, tokens):
    clean = codes_of(lens, tokens)
    a, b = int(clean[0, 2]), int(clean[1, 2])
    at = [1, 2]
    edits = [
        cl.Ablate([a, b], at=at),
        cl.Ablate([a, b], "resample", at=at),
        cl.Swap(a, (a + 1) % 12, at=at),
        cl.Restrict([(a + 1) % 12], at=at),
        cl.Patch((clean + 1) % 12, at=at),
    ]
    for edit in edits:
        found = codes_of(lens, tokens, edit)
        assert torch.equal(found[:, [0, *range(3, 12)]], clean[:, [0, *range(3, 12)]]), edit
        assert not torch.equal(found, clean), edit


def test_by_default_special_tokens_and_padding_are_left_alone(toy_lens, toy):
    model, texts = toy
    for side in ("left", "right"):
        tokens = model.to_tokens(texts[:3], padding_side=side)
        special = torch.isin(tokens, toy_lens.host.vocabulary.special)
        assert special.sum() > 3  # three times BOS, and padding
        options = {"padding_side": side}
        clean = codes_of(toy_lens, tokens, **options)
        found = codes_of(toy_lens, tokens, cl.Force(CODE), **options)
        assert torch.equal(found, torch.where(special, clean, CODE))


def test_a_position_that_is_named_is_reached_though_it_is_special(toy_lens, toy):
    model, texts = toy
    tokens = model.to_tokens(texts[0])
    clean = codes_of(toy_lens, tokens)
    other = (int(clean[0, 0]) + 1) % 16
    first = torch.arange(tokens.shape[1]) == 0
    for at in (
        0,
        -tokens.shape[1],
        slice(0, 1),
        first,
        lambda t: t == model.tokenizer.bos_token_id,
    ):
        found = codes_of(toy_lens, tokens, cl.Force(other, at=at))
        assert torch.equal(found, torch.where(first, other, clean))


# ---- a pass that begins in the middle ------------------------------------------------------------


@pytest.fixture
def without_tokens():
    """A lens on a model that saw no tokens, and activations after its first block."""
    tokens = torch.randint(0, 40, (2, 7), generator=torch.Generator().manual_seed(5))
    return fitted_lens(), random_model()(tokens, stop_at_layer=1)


def test_positions_are_counted_in_a_pass_that_begins_in_the_middle(without_tokens):
    lens, resid = without_tokens
    clean = codes_of(lens, resid, start_at_layer=1)
    for at, columns in ((None, range(7)), (-1, [6]), (slice(2, 4), [2, 3]), (only(5, n=7), [5])):
        expected = clean.clone()
        expected[:, list(columns)] = CODE
        assert torch.equal(codes_of(lens, resid, cl.Force(CODE, at=at), start_at_layer=1), expected)


def test_a_function_of_tokens_that_nobody_saw_is_refused(without_tokens):
    lens, resid = without_tokens
    plain = lens.model(resid, start_at_layer=1)
    with (
        pytest.raises(PositionError, match=r"began in the middle of the model.* Pass tokens"),
        lens.edit(cl.Force(CODE, at=lambda t: t == 0)),
    ):
        lens.model(resid, start_at_layer=1)
    assert torch.equal(lens.model(resid, start_at_layer=1), plain)


def test_a_plain_function_is_told_that_nobody_saw_the_tokens(without_tokens):
    lens, resid = without_tokens
    seen = []
    codes_of(lens, resid, lambda codes, t: seen.append(t) or codes, start_at_layer=1)
    assert seen == [None]


# ---- bad positions -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "message"),
    [
        (12, r"Position 12 lies beyond the text, which has 12 positions\. Use -12 to 11, or a s"),
        (-13, r"Position -13 lies beyond the text, which has 12 positions"),
        ([0, 40], r"Position 40 lies beyond .* slice\(12, None\)"),
        (only(0, n=11), r"a mask of shape \[11\], but the text has shape \[4, 12\]\. Pass one"),
        (lambda t: t[:, 1:] == 0, r"returned torch\.bool of shape \[4, 11\]; expected .*\[4, 12\]"),
        (lambda t: t, r"returned torch\.int64 of shape \[4, 12\]; expected torch\.bool"),
    ],
)
def test_positions_that_do_not_fit_are_refused_and_leave_the_model_alone(lens, tokens, at, message):
    plain = lens.model(tokens)
    with pytest.raises(PositionError, match=message), lens.edit(cl.Force(CODE, at=at)):
        lens.model(tokens)
    assert torch.equal(lens.model(tokens), plain)


def test_a_mask_for_other_texts_is_refused(lens, tokens):
    at = torch.ones(3, 12, dtype=torch.bool)
    with (
        pytest.raises(PositionError, match=r"a mask of shape \[3, 12\], but .* \[4, 12\]"),
        lens.edit(cl.Force(CODE, at=at)),
    ):
        lens.model(tokens)


# ---- frozen --------------------------------------------------------------------------------------


def test_positions_cannot_be_changed_afterwards(lens, tokens):
    numbers, tensor = [1, 2], torch.tensor([1, 2])
    edits = [cl.Force(CODE, at=numbers), cl.Force(CODE, at=tensor)]
    numbers.append(5)
    tensor += 5
    assert [edit.at for edit in edits] == [(1, 2), (1, 2)]
    assert edits[0] == edits[1]


def test_positions_that_cannot_change_are_kept_as_they_are():
    def function(tokens):
        return tokens == 0

    for at in (None, 3, slice(1, 2), function):
        assert frozen_positions(at) is at


# ---- in the passes of a generation ---------------------------------------------------------------


def even(tokens):
    return tokens % 2 == 0


NUMBERS = st.integers(-6, 5)
ENDS = st.none() | st.integers(-8, 12)
POSITIONS = st.one_of(
    NUMBERS,
    st.lists(NUMBERS, max_size=3),
    st.builds(slice, ENDS, ENDS, st.none() | st.integers(1, 3)),
    st.lists(st.booleans(), min_size=6, max_size=6),
    st.just(even),
    st.none(),
)


@given(POSITIONS, st.integers(1, 9))
def test_parts_of_a_text_have_the_positions_of_the_whole(at, cut):
    tokens = torch.randint(0, 9, (2, 10), generator=torch.Generator().manual_seed(0))
    whole = resolve_positions(at, text(10, n_given=6, tokens=tokens))
    first = (
        resolve_positions(at, text(cut, n_given=6, tokens=tokens[:, :cut])) if cut >= 6 else None
    )
    rest = resolve_positions(at, text(10 - cut, n_past=cut, n_given=6, tokens=tokens))
    assert whole.shape == (2, 10)
    assert torch.equal(rest, whole[:, cut:])
    if cut >= 6:  # the text as it was passed in comes in one piece
        first = resolve_positions(at, text(cut, n_given=6, tokens=tokens[:, :cut]))
        assert torch.equal(first, whole[:, :cut])


@pytest.mark.parametrize(
    ("at", "columns"),
    [
        (-1, [5]),
        (slice(-1, None), [5, 6, 7, 8]),
        (slice(7, 20), [7, 8]),
        (slice(None), range(9)),
        ([True] * 6, range(6)),
    ],
)
def test_negative_positions_count_from_the_end_of_what_was_passed_in(at, columns):
    found = resolve_positions(at, text(9, n_given=6))
    assert found.tolist() == [only(*columns, n=9)] * 2


def test_values_for_a_text_are_filled_up_where_a_generation_added_positions():
    given_values = torch.tensor([4, 5, 6])
    now = text(2, n_past=2, n_given=3)
    assert over_positions(given_values, now, fill=-1, what="codes").tolist() == [[6, -1]] * 2
    each = torch.tensor([[1, 2, 3], [4, 5, 6]])
    assert over_positions(each, now, fill=-1, what="codes").tolist() == [[3, -1], [6, -1]]
    with pytest.raises(PositionError, match=r"codes of shape \[2\], but the text has .* \[2, 3\]"):
        over_positions(torch.tensor([1, 2]), now, fill=-1, what="codes")


def test_a_pass_over_a_residual_stream_does_not_take_the_tokens_of_the_pass_before(model, tokens):
    lens = model.add_clvq(1, 2, n_codes=12, top_k=3)
    lens.fit(tokens.repeat(20, 1), n_tokens=600, held_out_fraction=0.0, progress=False)
    residual = model(tokens, stop_at_layer=1)
    model(tokens.flip(0))  # other tokens of the same shape
    edit = cl.Force(3, at=lambda seen: seen % 2 == 0)
    with lens.edit(edit), pytest.raises(PositionError, match="began in the middle"):
        model(residual, start_at_layer=1)
    with lens.edit(edit):
        model(tokens)


NAMED = {"cls": 2, "[CLS]": 2, "sep": 3}


@pytest.mark.parametrize(("at", "columns"), [("cls", [0]), ("[CLS]", [0]), ("sep", [3])])
def test_a_name_means_every_token_of_that_special_kind(at, columns):
    tokens = torch.tensor([[2, 7, 8, 3]])
    text = PassText(tokens, torch.tensor([[False, True, True, False]]), 0, 4, special=NAMED)
    assert resolve_positions(at, text).nonzero()[:, 1].tolist() == columns


def test_an_unknown_special_token_is_refused_with_those_that_exist():
    text = PassText(torch.tensor([[2, 7]]), torch.tensor([[False, True]]), 0, 2, special=NAMED)
    with pytest.raises(PositionError, match=r"no special token 'mask'\. It has: 'cls', '\[CLS\]'"):
        resolve_positions("mask", text)


def test_a_special_token_cannot_be_found_without_tokens():
    text = PassText(None, torch.tensor([[False, True]]), 0, 2, special=NAMED)
    with pytest.raises(PositionError, match="began in the middle of the model"):
        resolve_positions("cls", text)
