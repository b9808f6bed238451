"""Several edits, several blocks, several lenses: what comes first and what adds up."""

import pytest
import torch

import clvq_lens as cl
from clvq_lens.errors import (
    SpliceConflictError,
)
from tests.conftest import random_model
from tests.interventions.lenses import (
    CODES,
    ENCODED,
    RECON,
    SOURCE,
    TARGET,
    fit,
    frequent,
    logits,
    nearest,
    run,
)

# ---- order and composition -----------------------------------------------------------------------


def pair_of_neighbors(lens, tokens):
    """Codes a and b where a is next when b is taken away."""
    cache = run(lens, tokens)
    codes = cache[CODES]
    for b in codes.unique().tolist():
        a = int(nearest(lens, cache, [b])[codes == b][0])
        if (codes == a).any():
            return a, b
    raise AssertionError("no two neighbors among the codes in use")


def test_an_ablated_code_does_not_come_back_with_the_next_ablation(any_lens, tokens):
    a, b = pair_of_neighbors(any_lens, tokens)
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
    a, b = pair_of_neighbors(lens, tokens)
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
    a, b = frequent(upper, tokens, 2)
    with lower.edit(cl.Force(5)), upper.edit(cl.Swap(a, b)):
        cache = model.run_with_cache(tokens)[1]
    assert not torch.equal(cache[SOURCE], plain[SOURCE])
    assert torch.equal(cache[ENCODED], upper.quantizer.encode(cache[SOURCE]))
    own = upper.quantizer.assign(cache[SOURCE])
    assert not torch.equal(own, plain[CODES])
    assert torch.isin(own, torch.tensor([a, b])).any()
    assert torch.equal(cache[CODES], torch.where(own == a, b, torch.where(own == b, a, own)))


# ---- bans ----------------------------------------------------------------------------------------


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
