"""A draft is never changed; its parts stay together when it is cut, taken apart and joined."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clvq_lens.config import CLVQConfig
from clvq_lens.errors import CodeRangeError
from clvq_lens.quantizer.codebook import Codebook
from clvq_lens.quantizer.draft import Draft, joined

N_CODES = 6
EVERYWHERE = torch.ones(2, 5, dtype=torch.bool)


@pytest.fixture(scope="module")
def codebook():
    config = CLVQConfig(n_codes=N_CODES, top_k=3)
    return Codebook(config, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def draft(codebook):
    return plain_draft(codebook)


def plain_draft(codebook, n_batch=2, n_pos=5, seed=1):
    encoded = torch.randn(n_batch, n_pos, 3, generator=torch.Generator().manual_seed(seed))
    codes = codebook.nearest(encoded)
    return Draft(encoded, codes, codebook(codes))


def columns(*numbers):
    where = torch.zeros(2, 5, dtype=torch.bool)
    where[:, list(numbers)] = True
    return where


def banned(*codes):
    mask = torch.zeros(N_CODES, dtype=torch.bool)
    mask[list(codes)] = True
    return mask


def busy(draft, codebook):
    """A draft in which every part is in use."""
    draft = draft.without(banned(int(draft.codes[0, 1])), columns(1, 2), codebook)
    draft = draft.with_mean(torch.full((3,), 0.5), columns(3)).steered(torch.ones(2), columns(4))
    return draft.naming(columns(2))


def assert_equal(one, other):
    for f in dataclasses.fields(Draft):
        mine, theirs = getattr(one, f.name), getattr(other, f.name)
        assert (mine is None) == (theirs is None), f.name
        assert mine is None or torch.equal(mine, theirs), f.name


# ---- changes -------------------------------------------------------------------------------------


def test_a_change_gives_a_new_draft_and_leaves_the_old_one(draft, codebook):
    kept = dataclasses.replace(draft, codes=draft.codes.clone(), vectors=draft.vectors.clone())
    draft.with_codes(torch.full((2, 5), 3), EVERYWHERE, codebook)
    draft.with_mean(torch.zeros(3), EVERYWHERE)
    draft.without(banned(0, 1, 2), EVERYWHERE, codebook)
    draft.steered(torch.ones(2), EVERYWHERE)
    assert_equal(draft, kept)
    with pytest.raises(dataclasses.FrozenInstanceError):
        draft.codes = draft.codes


def test_other_codes_bring_their_vectors_and_end_an_average(draft, codebook):
    codes = (draft.codes + 1) % N_CODES
    changed = draft.with_mean(torch.zeros(3), columns(0, 2)).with_codes(codes, columns(2), codebook)
    assert torch.equal(changed.codes[:, 2], codes[:, 2])
    assert torch.equal(changed.vectors[:, 2], codebook.vectors[codes[:, 2]])
    assert (changed.vectors[:, 0] == 0).all()
    assert torch.equal(changed.codes[:, [0, 1, 3, 4]], draft.codes[:, [0, 1, 3, 4]])
    assert torch.equal(changed.vectors[:, [1, 3, 4]], draft.vectors[:, [1, 3, 4]])
    assert torch.equal(changed.averaged, columns(0))


def test_a_mean_takes_the_vector_and_leaves_the_code(draft):
    mean = torch.tensor([1.0, 2.0, 3.0])
    changed = draft.with_mean(mean, columns(1)).with_mean(mean, columns(3))
    assert torch.equal(changed.codes, draft.codes)
    assert (changed.vectors[:, [1, 3]] == mean).all()
    assert torch.equal(changed.vectors[:, [0, 2, 4]], draft.vectors[:, [0, 2, 4]])
    assert torch.equal(changed.averaged, columns(1, 3))


def test_directions_add_up(draft):
    once, twice = torch.tensor([1.0, 0.0]), torch.tensor([0.5, -1.0])
    steering = draft.steered(once, columns(0, 1)).steered(twice, columns(1, 2)).steering
    assert torch.equal(steering[0, :4], torch.stack([once, once + twice, twice, torch.zeros(2)]))


@given(st.lists(st.sets(st.integers(0, N_CODES - 1), max_size=2), max_size=2), st.integers(0, 99))
def test_the_nearest_code_that_is_still_allowed_takes_over(bans, seed):
    codebook = Codebook(CLVQConfig(n_codes=N_CODES), 3, generator=torch.Generator().manual_seed(0))
    draft = plain_draft(codebook, seed=seed)
    for codes in bans:
        draft = draft.without(banned(*codes), EVERYWHERE, codebook)
    gone = sorted(set().union(*bans))
    distances = torch.cdist(draft.encoded, codebook.vectors)
    distances[..., gone] = torch.inf
    assert torch.equal(draft.codes, distances.argmin(-1))
    assert torch.equal(draft.vectors, codebook.vectors[draft.codes])


def test_a_ban_holds_only_where_it_was_spoken(draft, codebook):
    a = int(draft.codes[0, 0])
    changed = draft.without(banned(a), columns(0), codebook)
    assert torch.equal(changed.codes[:, 1:], draft.codes[:, 1:])
    assert not (changed.codes[:, 0] == a).any()
    assert torch.equal(changed.banned[:, 0], banned(a).expand(2, -1))
    assert not changed.banned[:, 1:].any()


def test_a_position_without_any_code_left_is_refused(draft, codebook):
    half = draft.without(banned(0, 1, 2), EVERYWHERE, codebook)
    with pytest.raises(CodeRangeError, match=r"no code to choose at some position\. Leave at"):
        half.without(banned(3, 4, 5), columns(0), codebook)


# ---- cut, taken apart and joined -----------------------------------------------------------------


def test_cutting_and_taking_keep_all_parts_together(draft, codebook):
    whole = busy(draft, codebook)
    rows, part = whole.take(torch.tensor([1, 1, 0])), whole.cut(1, 4)
    for f in dataclasses.fields(Draft):
        value = getattr(whole, f.name)
        assert torch.equal(getattr(rows, f.name), value[[1, 1, 0]])
        assert torch.equal(getattr(part, f.name), value[:, 1:4])
    assert_equal(whole.cut(None, None), whole)


def test_cutting_and_taking_leave_unused_parts_unused(draft):
    for part in (draft.take(torch.tensor([0])), draft.cut(None, 2)):
        assert part.banned is part.averaged is part.steering is part.named is None


def test_joining_undoes_taking_apart(draft, codebook):
    whole = busy(draft, codebook)
    parts = [whole.take(torch.tensor([row])) for row in range(2)]
    assert_equal(joined(parts), whole)
    assert_equal(joined([draft]), draft)


def test_joining_fills_what_some_drafts_do_not_use_with_nothing(draft, codebook):
    both = joined([draft, busy(draft, codebook), draft.take(torch.tensor([0]))])
    assert both.codes.shape == (5, 5)
    for name in ("banned", "averaged", "steering"):
        part = getattr(both, name)
        assert not part[:2].any()
        assert not part[4:].any()
        assert torch.equal(part[2:4], getattr(busy(draft, codebook), name))
    assert joined([draft, draft]).steering is None


# ---- differences ---------------------------------------------------------------------------------


def test_a_draft_does_not_differ_from_itself_or_from_one_that_decodes_alike(draft, codebook):
    same = draft.with_codes(draft.codes.clone(), EVERYWHERE, codebook)
    unsteered = draft.steered(torch.zeros(2), EVERYWHERE)
    only_banned = dataclasses.replace(draft, banned=torch.ones(2, 5, N_CODES, dtype=torch.bool))
    for other in (draft, same, unsteered, only_banned):
        assert draft.differs_from(other).tolist() == [False, False]
        assert other.differs_from(draft).tolist() == [False, False]
        assert draft.first_difference(other) == 4  # a decoder has to begin somewhere


@pytest.mark.parametrize("column", range(5))
@pytest.mark.parametrize("kind", ["code", "mean", "steering"])
def test_the_first_difference_is_where_any_sequence_is_treated_differently(
    draft, codebook, kind, column
):
    where = columns(column, 4) & torch.tensor([[False], [True]])
    changed = {
        "code": draft.with_codes((draft.codes + 1) % N_CODES, where, codebook),
        "mean": draft.with_mean(torch.zeros(3), where),
        "steering": draft.steered(torch.ones(2), where),
    }[kind]
    for one, other in ((draft, changed), (changed, draft)):
        assert one.differs_from(other).tolist() == [False, True]
        assert one.first_difference(other) == column


def test_two_directions_differ_where_they_are_not_the_same(draft):
    one = draft.steered(torch.ones(2), columns(1, 3))
    other = draft.steered(torch.ones(2), columns(3))
    assert one.first_difference(other) == 1
    equal = draft.steered(torch.ones(2), columns(1, 3))
    assert not one.differs_from(equal).any()
