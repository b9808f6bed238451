"""Directions that are projected out: gone where they should be, and nothing else is."""

from contextlib import ExitStack

import pytest
import torch

import clvq_lens as cl
from clvq_lens.errors import (
    CodeRangeError,
    ConfigError,
    DetachedError,
    NotFittedError,
    PositionError,
)
from clvq_lens.host.context import PassText
from clvq_lens.interventions.directions import projection
from tests.conftest import random_model
from tests.host.states import assert_same_state, state
from tests.interventions.lenses import CODES, ENCODED, RECON, SOURCE, TARGET, fit

POINTS = {"source": SOURCE, "target": TARGET}


def run(lens, tokens, *blocks):
    """What passes the hook points inside some blocks, the first one outermost."""
    with ExitStack() as stack:
        for block in blocks:
            stack.enter_context(block)
        return lens.model.run_with_cache(tokens)[1]


def vectors_and_means(lens, place):
    """An oracle: what codes stand for at a place, its mean over codes and the mean activation."""
    quantizer = lens.quantizer
    shares = quantizer.usage.double() / quantizer.usage.sum()
    vectors = quantizer.source_vectors if place == "source" else quantizer.mean_target
    center = shares @ vectors.double()
    mean = quantizer.source_mean.double() if place == "source" else center
    return vectors.double(), center, mean


def residual(rows, x):
    """An oracle: what least squares cannot explain of x by some rows."""
    solution = torch.linalg.lstsq(rows.T, x.reshape(-1, x.shape[-1]).T, driver="gelsd").solution
    return x - (rows.T @ solution).T.reshape(x.shape)


# ---- what is taken out ---------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["source", "target"])
@pytest.mark.parametrize("codes", [3, [2, 7], [4, 4], list(range(6))])
def test_nothing_is_left_along_the_centered_directions_and_the_mean_stays(
    lens, tokens, place, codes
):
    vectors, center, mean = vectors_and_means(lens, place)
    directions = (vectors - center)[torch.tensor(codes).flatten()]
    before = run(lens, tokens)[POINTS[place]].double()
    after = run(lens, tokens, lens.project_out(codes, place=place))[POINTS[place]].double()
    units = directions / directions.norm(dim=1, keepdim=True)
    assert ((before - mean) @ units.T).abs().max() > 0.3
    assert ((after - mean) @ units.T).abs().max() < 1e-5
    expected = (mean @ units.T).expand(4, 12, -1)  # along them, all are where the mean is
    torch.testing.assert_close(after @ units.T, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(after, mean + residual(directions, before - mean), atol=1e-5, rtol=0)


@pytest.mark.parametrize("place", ["source", "target"])
@pytest.mark.parametrize("codes", [3, [2, 7], [4, 4]])
def test_raw_vectors_are_taken_out_together_with_their_mean(lens, tokens, place, codes):
    vectors, _, mean = vectors_and_means(lens, place)
    rows = vectors[torch.tensor(codes).flatten()]
    before = run(lens, tokens)[POINTS[place]].double()
    block = lens.project_out(codes, place=place, centered=False)
    after = run(lens, tokens, block)[POINTS[place]].double()
    units = rows / rows.norm(dim=1, keepdim=True)
    assert (after @ units.T).abs().max() < 1e-5
    assert (mean @ units.T).abs().max() > 1e-3  # which centering would have left
    torch.testing.assert_close(after, residual(rows, before), atol=1e-5, rtol=0)


@pytest.mark.parametrize("place", ["source", "target"])
def test_the_mean_activation_itself_stays(lens, place):
    _, _, mean = vectors_and_means(lens, place)
    activations = mean.float().expand(2, 5, -1)
    text = PassText(None, torch.ones(2, 5, dtype=torch.bool), n_past=0, n_given=5)
    for centered in (True, False):
        project = projection([1, 2], place, lens.quantizer, centered=centered, at=None)
        stays = torch.allclose(project(activations, text), activations, atol=1e-5)
        assert stays == centered


def test_by_default_the_target_is_meant(lens, tokens):
    found = run(lens, tokens, lens.project_out(3))
    expected = run(lens, tokens, lens.project_out([3], place="target", centered=True))
    assert torch.equal(found[TARGET], expected[TARGET])
    assert torch.equal(found[SOURCE], run(lens, tokens)[SOURCE])


@pytest.mark.parametrize("place", ["source", "target"])
def test_projecting_twice_is_projecting_once(lens, tokens, place):
    once = run(lens, tokens, lens.project_out(3, place=place))[POINTS[place]]
    blocks = lens.project_out(3, place=place), lens.project_out(3, place=place)
    twice = run(lens, tokens, *blocks)[POINTS[place]]
    torch.testing.assert_close(twice, once, atol=1e-5, rtol=0)


def test_a_residual_code_without_tokens_has_a_vector_at_the_source(tokens):
    lens = fit(random_model().add_clvq(1, 2, n_codes=12, encoder="residual"))
    lens.quantizer.usage[3] = 0
    vectors, center, mean = vectors_and_means(lens, "source")
    after = run(lens, tokens, lens.project_out(3, place="source"))[SOURCE].double()
    assert ((after - mean) @ (vectors[3] - center)).abs().max() < 1e-4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_keep_their_dtype(tokens, dtype):
    lens = fit(random_model(dtype=dtype).add_clvq(1, 2, n_codes=12, top_k=3))
    plain = run(lens, tokens)[TARGET]
    after = run(lens, tokens, lens.project_out(3))[TARGET]
    assert after.dtype == dtype
    vectors, center, mean = vectors_and_means(lens, "target")
    unit = (vectors[3] - center) / (vectors[3] - center).norm()
    left = ((after.double() - mean) @ unit).abs().max()
    assert left < 0.05 * ((plain.double() - mean) @ unit).abs().max()


# ---- where ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["source", "target"])
@pytest.mark.parametrize(
    ("positions", "columns"),
    [(2, [2]), (-1, [11]), ([0, 5], [0, 5]), (slice(-2, None), [10, 11]), ([], [])],
)
def test_only_the_positions_named_are_changed(lens, tokens, place, positions, columns):
    point = POINTS[place]
    plain, everywhere = run(lens, tokens), run(lens, tokens, lens.project_out(3, place=place))
    found = run(lens, tokens, lens.project_out(3, place=place, at=positions))[point]
    expected = plain[point].clone()
    expected[:, columns] = everywhere[point][:, columns]
    assert torch.equal(found, expected)


def test_positions_may_depend_on_the_tokens(lens, tokens):
    found = run(lens, tokens, lens.project_out(3, at=lambda t: t % 2 == 0))[TARGET]
    plain, all_of_them = run(lens, tokens)[TARGET], run(lens, tokens, lens.project_out(3))[TARGET]
    assert torch.equal(found, torch.where((tokens % 2 == 0).unsqueeze(-1), all_of_them, plain))


def test_special_tokens_and_padding_are_left_alone_unless_named(toy):
    model, texts = toy
    lens = model.add_clvq(1, 2, n_codes=16)
    try:
        lens.fit(texts[:60], n_tokens=4_000, progress=False)
        tokens = model.to_tokens(texts[:3])
        special = torch.isin(tokens, lens.host.vocabulary.special)
        assert special.sum() > 3  # three times BOS, and padding
        for place, point in POINTS.items():
            plain = run(lens, tokens)[point]
            found = run(lens, tokens, lens.project_out(3, place=place))[point]
            assert torch.equal(found[special], plain[special])
            assert not (found == plain).all(-1)[~special].any()
            first = run(lens, tokens, lens.project_out(3, place=place, at=0))[point]
            assert not torch.equal(first[:, 0], plain[:, 0])
            assert torch.equal(first[:, 1:], plain[:, 1:])
    finally:
        lens.remove()


# ---- beside splices, edits and other lenses ------------------------------------------------------


def test_a_splice_is_projected_whichever_block_is_outside(lens, tokens):
    vectors, center, mean = vectors_and_means(lens, "target")
    direction = (vectors - center)[3:4]
    recon = run(lens, tokens, lens.splice())[TARGET].double()
    expected = mean + residual(direction, recon - mean)
    for blocks in (
        (lens.splice(), lens.project_out(3)),
        (lens.project_out(3), lens.splice()),
    ):
        found = run(lens, tokens, *blocks)
        torch.testing.assert_close(found[TARGET].double(), expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(found[RECON].double(), recon)  # as it was decoded


def test_an_edited_target_is_projected_whichever_block_is_outside(lens, tokens):
    vectors, center, mean = vectors_and_means(lens, "target")
    edit = cl.Steer(3, 5.0)
    edited = run(lens, tokens, lens.edit(edit))[TARGET].double()
    expected = mean + residual((vectors - center)[3:4], edited - mean)
    for blocks in (
        (lens.edit(edit), lens.project_out(3)),
        (lens.project_out(3), lens.edit(edit)),
    ):
        found = run(lens, tokens, *blocks)[TARGET].double()
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_codes_are_those_of_the_projected_source_also_under_an_edit(lens, tokens):
    plain = run(lens, tokens)
    swap = cl.Swap(*plain[CODES].flatten().bincount().argsort()[-2:].tolist())
    a, b = swap.codes_named
    for blocks in (
        (lens.edit(swap), lens.project_out([1, 2, 3, 4], place="source")),
        (lens.project_out([1, 2, 3, 4], place="source"), lens.edit(swap)),
    ):
        found = run(lens, tokens, *blocks)
        assert torch.equal(found[ENCODED], lens.quantizer.encode(found[SOURCE]))
        own = lens.quantizer.assign(found[SOURCE])
        assert not torch.equal(own, plain[CODES])
        assert torch.equal(found[CODES], torch.where(own == a, b, torch.where(own == b, a, own)))


@pytest.mark.parametrize("order", [("0-1", "1-2"), ("1-2", "0-1")])
@pytest.mark.parametrize("by", ["lower", "upper"])
def test_in_a_chain_the_upper_lens_reads_what_was_left_at_its_source(tokens, order, by):
    model = random_model()
    for name in order:
        fit(model.add_clvq(int(name[0]), int(name[2]), n_codes=12, top_k=3))
    lower, upper = model.clvqs["0-1"], model.clvqs["1-2"]
    edited = run(upper, tokens, lower.edit(cl.Force(5)))[SOURCE].double()
    if by == "lower":
        block, (vectors, center, mean) = lower.project_out(3), vectors_and_means(lower, "target")
    else:
        block = upper.project_out(3, place="source")
        vectors, center, mean = vectors_and_means(upper, "source")
    found = run(upper, tokens, block, lower.edit(cl.Force(5)))
    expected = mean + residual((vectors - center)[3:4], edited - mean)
    torch.testing.assert_close(found[SOURCE].double(), expected, atol=1e-5, rtol=0)
    assert torch.equal(found[ENCODED], upper.quantizer.encode(found[SOURCE]))
    assert not torch.allclose(found[SOURCE].double(), edited)


def test_a_lens_attached_inside_the_block_reads_what_was_left(lens, tokens):
    with lens.project_out(3, place="source"):
        other = lens.model.add_clvq(1, 3, n_codes=12)
        try:
            cache = lens.model.run_with_cache(tokens)[1]
            plain = run(other, tokens)["clvq.1-3.hook_encoded"]
        finally:
            other.remove()
    assert torch.equal(cache["clvq.1-3.hook_encoded"], plain)
    assert torch.equal(plain, other.quantizer.encode(cache[SOURCE]))


@pytest.mark.parametrize("place", ["source", "target"])
def test_the_users_hooks_see_the_projected_activations_and_can_undo_it(lens, tokens, place):
    point, model = POINTS[place], lens.model
    plain, expected = model(tokens), run(lens, tokens, lens.project_out(3, place=place))[point]
    original, seen = run(lens, tokens)[point], []

    def undo(value, hook):
        seen.append(value.clone())
        return original

    with model.hooks(fwd_hooks=[(point, undo)]), lens.project_out(3, place=place):
        assert torch.equal(model(tokens), plain)
    assert torch.equal(seen[0], expected)


# ---- nothing stays behind ------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["source", "target"])
def test_a_block_leaves_the_model_as_it_was(lens, tokens, place):
    plain, before = lens.model(tokens), state(lens.model)
    with lens.project_out(3, place=place) as inside:
        assert inside is lens
        assert not torch.equal(lens.model(tokens), plain)
    assert torch.equal(lens.model(tokens), plain)
    assert_same_state(before, state(lens.model))
    with pytest.raises(RuntimeError, match="in the body"), lens.project_out(3, place=place):
        raise RuntimeError("in the body")
    assert torch.equal(lens.model(tokens), plain)
    assert_same_state(before, state(lens.model))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"codes": 12}, CodeRangeError, "names code 12. Pass codes of .* 0 to 11"),
        ({"codes": [3, -1]}, CodeRangeError, "names code -1. Pass codes of the codebook"),
        ({"codes": []}, CodeRangeError, r"No code was named\. Name at least one"),
        ({"codes": 0.5}, ConfigError, r"0\.5 is not a code\. Pass whole numbers"),
        (
            {"codes": 3, "place": "middle"},
            ConfigError,
            "place is 'middle'. Pass one of 'source', 'target'",
        ),
        ({"codes": 3, "at": 12}, PositionError, "Position 12 lies beyond the text"),
        ({"codes": 3, "at": [True]}, PositionError, r"a mask of shape \[1\], but .* Pass"),
    ],
)
def test_bad_projections_say_why_and_leave_the_model_alone(
    lens, tokens, as_for_a_user, arguments, error, message
):
    plain, before = lens.model(tokens), state(lens.model)
    with pytest.raises(error, match=message), lens.project_out(**arguments):
        lens.model(tokens)
    assert torch.equal(lens.model(tokens), plain)
    assert_same_state(before, state(lens.model))


@pytest.mark.parametrize("place", ["source", "target"])
def test_a_predictive_code_without_tokens_has_a_vector_nowhere(fitted, place):
    fitted.quantizer.usage[3] = 0
    with (
        pytest.raises(CodeRangeError, match=f"Code 3 has no training token, so its mean {place}"),
        fitted.project_out([2, 3], place=place),
    ):
        pytest.fail("the block was entered")


def test_projecting_needs_a_fitted_and_attached_quantizer(model, fitted):
    new = model.add_clvq(0, 3, n_codes=12)
    with pytest.raises(NotFittedError, match=r"Call lens\.fit\(data\) first"), new.project_out(3):
        pytest.fail("the block was entered")
    fitted.remove()
    with pytest.raises(DetachedError, match="'1-2' was removed"), fitted.project_out(3):
        pytest.fail("the block was entered")


def test_a_large_common_mean_adds_no_direction_of_its_own(model, tokens):
    """Codes less their weighted mean depend on one another, whatever their common mean."""
    lens = model.add_clvq(1, 2, n_codes=8, top_k=3)
    data = torch.randint(0, 40, (60, 16), generator=torch.Generator().manual_seed(2))
    lens.fit(data, n_tokens=2_000, batch_tokens=256, progress=False)
    with torch.no_grad():
        lens.quantizer.codebook.vectors.add_(100 * torch.ones(16))
    project = projection(range(8), "source", lens.quantizer, centered=True, at=slice(None))
    real = torch.ones(1, 16, dtype=torch.bool)
    text = PassText(tokens=None, real=real, n_past=0, n_given=16)
    removed = torch.eye(16).unsqueeze(0) - (
        project(torch.eye(16).unsqueeze(0), text) - project(torch.zeros(1, 16, 16), text)
    )
    assert torch.linalg.matrix_rank(removed[0], atol=1e-3) == 7
