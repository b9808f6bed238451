"""Edits: of any code, at any position, in any order, with whatever function."""

import functools
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import clvq_lens as cl
from tests.hostile.conftest import PROFILE
from tests.hostile.subjects import N_CODES, Subject
from tests.hostile.trial import Trial, UsersOwnError, shown
from tests.hostile.values import SCALARS
from tests.hosts import words


def _tokens(subject: Subject) -> Tensor:
    """Three rows with special tokens in them: at the ends of an encoder's texts, else inside."""
    tokens = words(3, 8, seed=4)
    special = subject.lens.host.vocabulary.special_by_name
    if subject.kind.causal:
        tokens[:, 3] = subject.lens.host.vocabulary.special[0]
    else:
        tokens[:, 0], tokens[:, -1] = special["cls"], special["sep"]
    return tokens


EDITS: dict[str, Callable[..., Any]] = {
    "ablate": lambda code, at: cl.Ablate(code, at=at),
    "ablate to the mean": lambda code, at: cl.Ablate(code, to="mean", at=at),
    "ablate by drawing": lambda code, at: cl.Ablate(code, to="resample", at=at),
    "restrict": lambda code, at: cl.Restrict(code, at=at),
    "swap": lambda code, at: cl.Swap(code, 1, at=at),
    "force": lambda code, at: cl.Force(code, at=at),
    "patch": lambda code, at: cl.Patch(code, at=at),
    "steer": lambda code, at: cl.Steer(code, at=at),
    "steer far": lambda code, at: cl.Steer(2, code, at=at),
}
CODES: list[Any] = [
    *(0, 5, 11, 12, -1, 10**9, 2**70, True, None, 1.5, "1", [], [0, 1], [0, 0], (11,), {3, 4}),
    *(range(12), range(11), [0, 12], [[0, 1]], np.int64(3), np.array([1, 2]), torch.tensor(4)),
    *(torch.tensor([0, 5]), torch.tensor([0.5]), torch.tensor([True, False]), iter([1, 2])),
    *([5] * 8, torch.full((3, 8), 2), torch.full((8,), -1), torch.full((2, 8), 1), "ab", b"\x01"),
    *(float("nan"), float("inf"), 1e38, -3.0, 0.0, np.float64(2.5)),
]


def _mask(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) > 0.5


POSITIONS: list[Any] = [
    *(None, 0, -1, 7, 8, -8, -9, 10**9, 2**70, True, 1.0, "cls", "sep", "bos", "[SEP]", "x", ""),
    *([], [0], [0, -1], [0, 0, 0], [8], (), (1, 2), [True] * 8, [False] * 8, [True] * 7, [1.5]),
    *(slice(None), slice(2, 5), slice(5, 2), slice(-3, None), slice(0, 100), slice(None, None, 2)),
    *(slice(None, None, -1), slice(None, None, 0), slice("a", "b"), slice(1.5, 3)),
    *(_mask(8), _mask(3, 8), _mask(1, 8), _mask(3, 7), _mask(3, 8, 1), torch.tensor(2)),
    *(torch.tensor([1, 2]), torch.tensor([[1], [2]]), np.array([1, 2]), np.int64(3), range(3)),
    *(lambda tokens: tokens > 20, lambda tokens: tokens * 0, lambda tokens: None),
    *(lambda tokens: _mask(3, 8), lambda tokens: (tokens > 20)[:, :-1]),
    *(len, {1, 2}, {"a": 1}, iter([1, 2]), object(), np.array(["a"])),
]


def _target_of(subject: Subject, tokens: Tensor) -> Tensor:
    point = subject.lens.target
    return subject.model.run_with_cache(tokens, names_filter=point)[1][point].detach()


def _at_special(subject: Subject, at: Any) -> bool:
    """Whether an edit may name special tokens."""
    return at is not None


def _tell(
    trial: Trial,
    subject: Subject,
    case: str,
    edits: Callable[[], Any],
    at: Any,
    documented: tuple[type[Exception], ...] = (),
) -> None:
    tokens = _tokens(subject)
    clean = _target_of(subject, tokens)
    special = torch.isin(tokens, subject.lens.host.vocabulary.special)

    def call() -> tuple[Tensor, Tensor, Tensor]:
        given_tokens = tokens.clone()
        made = edits()
        made = made if isinstance(made, list) else [made]
        with subject.lens.edit(*made):
            first = _target_of(subject, given_tokens)
            second = _target_of(subject, given_tokens)
        return first, second, given_tokens

    def check(result: Any) -> None:
        first, second, given_tokens = result
        assert given_tokens.equal(tokens), "the tokens have changed"
        assert first.isfinite().all(), "the target is not finite"
        assert first.equal(second), "two passes under one edit differ"
        assert _target_of(subject, tokens).equal(clean), "the edit has outlived its block"
        if not _at_special(subject, at):
            assert first[special].equal(clean[special]), "special tokens have changed"

    trial.run(f"{case}, {subject.kind}", call, check, documented=documented)


def test_any_code_at_any_position(trial, subject):
    cases = [(edit, code, at) for code in CODES for at in (None, 0, slice(2, 5)) for edit in EDITS]
    cases += [(edit, 2, at) for at in POSITIONS for edit in EDITS]
    for edit, code, at in trial.some(cases, in_ci=60):
        fresh = iter([1, 2]) if hasattr(code, "__next__") else code
        _tell(
            trial,
            subject,
            f"{edit} {shown(code)} at {shown(at)}",
            lambda edit=edit, code=fresh, at=at: EDITS[edit](code, at),
            at,
        )


def test_any_scalar_as_an_edit_or_its_part(trial, subject):
    makers: dict[str, Callable[[Any], Any]] = {
        "an edit": lambda value: value,
        "Ablate(to=...)": lambda value: cl.Ablate(0, to=value),
        "Ablate(seed=...)": lambda value: cl.Ablate(0, to="resample", seed=value),
        "Steer(scale=...)": lambda value: cl.Steer(2, value),
        "Force(at=...)": lambda value: cl.Force(2, at=value),
        "a function that returns it": lambda value: lambda codes, tokens: value,
        "at as a function that returns it": lambda value: cl.Force(2, at=lambda tokens: value),
    }
    cases = [(maker, value) for value in SCALARS for maker in makers]
    for maker, value in trial.some(cases, in_ci=24):
        _tell(
            trial,
            subject,
            f"{maker}: {shown(value)}",
            lambda maker=maker, value=value: makers[maker](value),
            "unknown",
        )


def _raise(codes: Tensor, tokens: Tensor | None) -> Tensor:
    raise UsersOwnError("the user's own")


def _writes_codes(codes: Tensor, tokens: Tensor | None) -> Tensor:
    codes[:, 1:3] = 4
    return codes


def _writes_tokens(codes: Tensor, tokens: Tensor | None) -> Tensor:
    if tokens is not None:
        tokens.fill_(7)
    return codes


def _at_writes_tokens(tokens: Tensor) -> Tensor:
    tokens.fill_(7)
    return tokens == 7


FUNCTIONS: dict[str, Any] = {
    "one that raises": _raise,
    "one that writes codes": _writes_codes,
    "one that writes tokens": _writes_tokens,
    "positions that write tokens": cl.Force(2, at=_at_writes_tokens),
    "one that does nothing": lambda codes, tokens: codes,
    "one that returns None": lambda codes, tokens: None,
    "floats": lambda codes, tokens: codes.float(),
    "int32": lambda codes, tokens: codes.int(),
    "int8": lambda codes, tokens: codes.to(torch.int8),
    "booleans": lambda codes, tokens: codes > 3,
    "too few": lambda codes, tokens: codes[:, :-1],
    "one row": lambda codes, tokens: codes[:1],
    "an expanded one": lambda codes, tokens: codes[:, :1].expand_as(codes),
    "beyond the codebook": lambda codes, tokens: codes + N_CODES,
    "negative": lambda codes, tokens: codes - N_CODES,
    "huge": lambda codes, tokens: codes + 2**62,
    "a list": lambda codes, tokens: codes.tolist(),
    "an array": lambda codes, tokens: codes.numpy(),
    "on meta": lambda codes, tokens: codes.to("meta"),
    "sparse": lambda codes, tokens: codes.to_sparse(),
    "tokens as codes": lambda codes, tokens: tokens,
    "of one argument": lambda codes: codes,
    "of three arguments": lambda codes, tokens, more: codes,
    "a random one": lambda codes, tokens: torch.randint(
        0, N_CODES, codes.shape, generator=torch.Generator().manual_seed(1)
    ),
    "a partial class": cl.Force,
    "a generator": lambda codes, tokens: (code for code in codes),
}


def test_functions(trial, subject):
    for name, function in FUNCTIONS.items():
        documented = (TypeError,) if "argument" in name else ()
        at = "named" if name == "positions that write tokens" else None
        edits: dict[str, Callable[[], Any]] = {
            "a function": lambda function=function: function,
            "a function after an edit": lambda function=function: [cl.Ablate(0), function],
        }
        for how, edit in edits.items():
            _tell(trial, subject, f"{how}: {name}", edit, at, documented)


def _made(edit: type, *args: Any, **options: Any) -> Any:
    """Ways to make an edit; made in the trial, since checks of types draw random numbers."""
    return st.builds(functools.partial, st.just(edit), *args, **options)


_MAKERS = st.one_of(
    _made(cl.Ablate, st.integers(0, 11), st.sampled_from(["nearest", "mean", "resample"])),
    _made(cl.Ablate, st.lists(st.integers(0, 11), max_size=12)),
    _made(cl.Restrict, st.lists(st.integers(0, 11), min_size=1, max_size=12)),
    _made(cl.Swap, st.integers(0, 11), st.integers(0, 11)),
    _made(cl.Force, st.integers(0, 11), at=st.none() | st.integers(-8, 7)),
    _made(cl.Force, st.integers(0, 11), at=st.lists(st.booleans(), min_size=8, max_size=8)),
    _made(cl.Patch, st.lists(st.integers(-1, 11), min_size=8, max_size=8)),
    _made(cl.Steer, st.just(2), st.floats(-1e3, 1e3)),
)


def test_generated_sequences_of_edits(trial, subject):
    @PROFILE
    @given(makers=st.lists(_MAKERS, max_size=4))
    def search(makers: list[Callable[[], Any]]) -> None:
        at = "named" if any(maker.keywords.get("at") is not None for maker in makers) else None
        made = ", ".join(f"{maker.func.__name__} of {shown(maker.args)}" for maker in makers)
        _tell(trial, subject, f"edits {made}", lambda: [maker() for maker in makers], at)

    search()


def test_blocks_close_in_any_order_and_after_errors(trial, subject):
    """Edits, splices and projections, nested in each other, leave the model as it was."""
    lens, other = subject.lens, subject.model.clvqs["2-3"]
    tokens = _tokens(subject)
    clean = subject.model(tokens).detach()
    blocks: dict[str, Callable[[], Any]] = {
        "edit": lambda: lens.edit(cl.Ablate(0)),
        "edit without error term": lambda: lens.edit(cl.Force(1), error_term=False),
        "splice": lens.splice,
        "projection at the source": lambda: lens.project_out([0, 1], place="source"),
        "projection at the target": lambda: lens.project_out(2, centered=False),
        "edit of another": lambda: other.edit(cl.Ablate(1)),
        "splice of another": other.splice,
    }
    pairs = [(a, b, raises) for a in blocks for b in blocks for raises in (False, True)]
    for first, second, raises in trial.some(pairs, in_ci=10):

        def call(first: str = first, second: str = second, raises: bool = raises) -> Any:
            with ExitStack() as stack:
                stack.enter_context(blocks[first]())
                stack.enter_context(blocks[second]())
                subject.model(tokens)
                if raises:
                    raise UsersOwnError
            return None

        trial.run(
            f"{second} inside {first}{', raising' if raises else ''}, {subject.kind}",
            call,
        )
        trial.run(
            f"a pass after {second} inside {first}, {subject.kind}",
            lambda: subject.model(tokens),
            lambda logits: _equal(logits.detach(), clean),
        )


def _equal(logits: Tensor, expected: Tensor) -> None:
    assert logits.equal(expected), "the model computes something else than before"


def test_scalars_as_options_of_blocks(trial, subject):
    lens, tokens = subject.lens, _tokens(subject)
    blocks: dict[str, Callable[[Any], Any]] = {
        "project_out(codes)": lambda value: lens.project_out(value),
        "project_out(place=...)": lambda value: lens.project_out(0, place=value),
        "project_out(at=...)": lambda value: lens.project_out(0, at=value),
        "project_out(centered=...)": lambda value: lens.project_out(0, centered=value),
        "edit(error_term=...)": lambda value: lens.edit(cl.Ablate(0), error_term=value),
    }

    def call(block: str, value: Any) -> Any:
        with blocks[block](value):
            return subject.model(tokens)

    for block, value in trial.some([(b, v) for v in (*SCALARS, *CODES) for b in blocks], in_ci=16):
        trial.run(
            f"{block} with {shown(value)}, {subject.kind}",
            lambda block=block, value=value: call(block, value),
            lambda logits: _finite(logits),
        )


def _finite(logits: Tensor) -> None:
    assert logits.isfinite().all(), "logits are not finite"


@pytest.mark.parametrize("how", ["greedy", "sampled", "beam"])
def test_generation_with_and_without_the_cache(trial, subject, how):
    if not subject.kind.has_cache or (how == "beam" and not subject.kind.is_bridge):
        return
    prompt = words(2, 5, seed=8)
    options: dict[str, Any] = {"max_new_tokens": 6, "verbose": False, "stop_at_eos": False}
    options |= {"do_sample": how == "sampled"} | ({"num_beams": 3} if how == "beam" else {})

    def generate(block: Any, use_cache: bool) -> Tensor:
        torch.manual_seed(0)
        with torch.random.fork_rng(devices=[]), block():
            torch.manual_seed(1)
            made = subject.model.generate(prompt, use_past_kv_cache=use_cache, **options)
        return torch.as_tensor(made).clone()

    blocks: dict[str, Callable[[], Any]] = {
        **{
            name: lambda edit=edit: subject.lens.edit(edit(2, None)) for name, edit in EDITS.items()
        },
        "patch": lambda: subject.lens.edit(cl.Patch([1, 2, 3, 4, 5])),
        "splice": subject.lens.splice,
        "projection": lambda: subject.lens.project_out([0, 3]),
        "a hook": lambda: subject.model.hooks(fwd_hooks=[("clvq.1-2.hook_codes", _next_code)]),
        "a hook in place": lambda: subject.model.hooks(
            fwd_hooks=[("clvq.1-2.hook_codes", _next_code_in_place)]
        ),
        "a hook on the prompt": lambda: subject.model.hooks(
            fwd_hooks=[("clvq.1-2.hook_codes", _first_code_in_place)]
        ),
    }
    blocks.pop("steer far")
    try:
        generate(subject.lens.splice, True)
    except (NotImplementedError, TypeError, ValueError):
        return  # this host has no such generation
    for name in trial.some(list(blocks), in_ci=4):
        trial.run(
            f"{how} generation under {name}, {subject.kind}",
            lambda name=name: (generate(blocks[name], True), generate(blocks[name], False)),
            lambda both: _same_tokens(*both),
        )


def _next_code(codes: Tensor, hook: Any) -> Tensor:
    return (codes + 1) % N_CODES


def _next_code_in_place(codes: Tensor, hook: Any) -> None:
    codes.copy_((codes + 1) % N_CODES)


def _first_code_in_place(codes: Tensor, hook: Any) -> None:
    """Changes what only the pass over the prompt has: its first token."""
    if codes.shape[1] > 1:
        codes[:, 0] = (codes[:, 0] + 1) % N_CODES


def _same_tokens(cached: Tensor, uncached: Tensor) -> None:
    assert cached.equal(uncached), f"cached and uncached differ: {cached}, {uncached}"
