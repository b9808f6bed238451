"""Edits that cannot be: each says why and leaves the model alone."""

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
)
from tests.host.states import assert_same_state, state

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
        (
            ["Ablate"],
            ConfigError,
            r"^'Ablate' is not an edit\. Pass clvq_lens\.Ablate, .* or a funct",
        ),
        ([[cl.Ablate(1)]], ConfigError, r"^\[Ablate\(codes=\(1,\)\)\] is not an edit"),
        ([None], ConfigError, "^None is not an edit"),
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
        (lambda: cl.Ablate(1.5), ConfigError, r"^1\.5 is not a code\. Pass whole numbers"),
        (lambda: cl.Ablate([1, 2.0]), ConfigError, r"^\[1, 2\.0\] is not a code"),
        (lambda: cl.Ablate("3"), ConfigError, "^'3' is not a code"),
        (lambda: cl.Swap(1, "b"), ConfigError, "^'b' is not a code"),
        (lambda: cl.Force(None), ConfigError, "^None is not a code"),
        (lambda: cl.Force(torch.tensor(1.0)), ConfigError, r"^tensor\(1\.\) is not a code"),
        (lambda: cl.Restrict(0.5), ConfigError, "is not a code"),
        (lambda: cl.Steer(0.5), ConfigError, "is not a code"),
        (lambda: cl.Ablate(True), ConfigError, "^True is not a code"),
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
