"""Activations: what hooks, modes and dtypes may make of them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import clvq_lens as cl
from clvq_lens.errors import NonFiniteError
from tests.hostile.conftest import PROFILE
from tests.hostile.subjects import VERBS, Subject
from tests.hostile.trial import UsersOwnError
from tests.hosts import words

TOKENS = words(4, 9, seed=5)


def _fill(value: float, *place: Any) -> Callable[[Tensor], Tensor]:
    def damaged(x: Tensor) -> Tensor:
        x = x.clone()
        x[place or ...] = value
        return x

    return damaged


def _in_place(x: Tensor) -> None:
    x[:, 0] = float("nan")


def _raise(x: Tensor) -> Tensor:
    raise UsersOwnError("the user's own")


DAMAGE: dict[str, Callable[[Tensor], Any]] = {
    **{f"{value} everywhere": _fill(value) for value in (float("nan"), float("inf"), 0.0, 3.0)},
    **{f"{value} at one token": _fill(value, 0, -1) for value in (float("nan"), float("-inf"))},
    **{f"{value} in one row": _fill(value, 0) for value in (float("nan"), 1e30, 0.0)},
    **{f"{value} in one number": _fill(value, 0, 0, 0) for value in (float("nan"), 1e38, 1e20)},
    "NaN in place": _in_place,
    "times 1e18": lambda x: x * 1e18,
    "times 1e25": lambda x: x * 1e25,
    "times 1e-25": lambda x: x * 1e-25,
    "a massive token": lambda x: torch.cat([x[:, :1] * 1e4, x[:, 1:]], 1),
    "all the same": lambda x: x[:1, :1].expand_as(x),
    "detached": lambda x: x.detach(),
    "nothing": lambda x: None,
    "an error": _raise,
}


@contextmanager
def _damaged(subject: Subject, point: str, damage: Callable[[Tensor], Any]) -> Iterator[None]:
    with subject.model.hooks(fwd_hooks=[(point, lambda x, hook: damage(x))]):
        yield


def _points(subject: Subject) -> dict[str, str]:
    lens = subject.lens
    return {"source": lens.source, "target": lens.target, "earlier": subject.kind.after(0)}


def test_damaged_activations_are_refused_or_give_numbers(trial, subject, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    points = _points(subject)
    cases = [(name, at, how) for how in DAMAGE for at in points for name in VERBS]
    for name, at, how in trial.some(cases, in_ci=36):
        verb = VERBS[name]

        def call(verb: Any = verb, at: str = at, how: str = how, name: str = name) -> Any:
            with _damaged(subject, points[at], DAMAGE[how]):
                result = verb.call(subject, TOKENS)
                if name != "edit":  # the model itself goes on with NaN
                    verb.check(subject, TOKENS, result)

        trial.run(
            f"{name} with {how} at the {at}, {subject.kind}",
            call,
        )


def test_nan_at_the_source_is_never_encoded(trial, subject):
    def refused(call: Callable[[], Any]) -> Any:
        with pytest.raises(NonFiniteError):
            call()

    def encoded_with_nan(name: str, row: int, position: int) -> None:
        damage = _fill(float("nan"), row, position)
        with _damaged(subject, subject.lens.source, damage):
            refused(lambda: VERBS[name].call(subject, TOKENS))

    for row, position in trial.some([(r, p) for r in range(4) for p in range(9)], in_ci=6):
        for name in ("encode", "evaluate", "concepts"):
            trial.run(
                f"{name} with NaN at {row}, {position}, {subject.kind}",
                lambda name=name, at=(row, position): encoded_with_nan(name, *at),
            )


# ---- modes ---------------------------------------------------------------------------------------


@contextmanager
def _train_mode(subject: Subject) -> Iterator[None]:
    subject.model.train()
    try:
        yield
        assert subject.model.training, "the mode of the model has changed"
    finally:
        subject.model.eval()


@contextmanager
def _frozen(subject: Subject) -> Iterator[None]:
    before = [parameter.requires_grad for parameter in subject.model.parameters()]
    subject.model.requires_grad_(False)
    try:
        yield
        still = not any(parameter.requires_grad for parameter in subject.model.parameters())
        assert still, "parameters that were frozen require gradients"
    finally:
        for parameter, value in zip(subject.model.parameters(), before, strict=True):
            parameter.requires_grad_(value)


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _deterministic(subject: Subject) -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextmanager
def _anomalies(subject: Subject) -> Iterator[None]:
    with torch.autograd.set_detect_anomaly(True, check_nan=False):
        yield


MODES: dict[str, Callable[[Subject], Any]] = {
    "inference mode": lambda subject: torch.inference_mode(),
    "no gradients": lambda subject: torch.no_grad(),
    "gradients": lambda subject: torch.enable_grad(),
    "train mode": _train_mode,
    "frozen parameters": _frozen,
    "autocast": lambda subject: torch.autocast("cpu", dtype=torch.bfloat16),
    "default float64": lambda subject: _default_dtype(torch.float64),
    "default bfloat16": lambda subject: _default_dtype(torch.bfloat16),
    "deterministic algorithms": _deterministic,
    "anomaly detection": _anomalies,
    "an open edit": lambda subject: subject.lens.edit(cl.Ablate(0)),
    "an open splice": lambda subject: subject.lens.splice(),
    "an open projection": lambda subject: subject.lens.project_out(0),
    "an edit of the next lens": lambda subject: subject.model.clvqs["2-3"].edit(cl.Ablate(0)),
    "nothing": lambda subject: nullcontext(),
}


def test_modes_change_no_result(trial, subject, tmp_path, monkeypatch):
    """In any mode a verb says the same as in none, or refuses."""
    monkeypatch.chdir(tmp_path)
    same = ("no gradients", "gradients", "train mode", "frozen parameters", "nothing")
    expected = subject.lens.encode(TOKENS).codes
    report = subject.lens.evaluate(TOKENS, progress=False).frame()
    for name, mode in trial.some([(name, mode) for mode in MODES for name in VERBS], in_ci=24):
        verb = VERBS[name]

        def call(verb: Any = verb, mode: str = mode) -> Any:
            with MODES[mode](subject):
                return verb.call(subject, TOKENS)

        def check(result: Any, verb: Any = verb, name: str = name, mode: str = mode) -> None:
            if mode in same:
                verb.check(subject, TOKENS, result)
            if mode in same and name == "encode":
                assert result.codes.equal(expected)
            if mode in same and name == "evaluate":
                assert result.frame()["value"].equals(report["value"])

        trial.run(f"{name} in {mode}, {subject.kind}", call, check)


CASTS = (torch.float16, torch.bfloat16, torch.float64)


@pytest.mark.parametrize("when", ["before attaching", "after attaching"])
def test_casts_are_noticed_or_work(trial, kind, when, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cases = [(name, dtype) for dtype in CASTS for name in VERBS]
    for name, dtype in trial.some(cases, in_ci=2):
        subject = Subject(kind)
        if when == "before attaching":
            for lens in list(subject.model.clvqs.values()):
                lens.remove()
            subject.model.to(dtype)
            for source, target in ((1, 2), (2, 3)):
                lens = subject.model.add_clvq(source, target, n_codes=12, top_k=3)
                lens.fit(words(60, 16, seed=2), n_tokens=600, batch_tokens=256, progress=False)
        else:
            subject.model.to(dtype)
        verb = VERBS[name]
        trial.run(
            f"{name} of a model cast to {dtype} {when}, {kind}",
            lambda verb=verb, subject=subject: (subject, verb.call(subject, TOKENS)),
            lambda result, verb=verb: verb.check(result[0], TOKENS, result[1]),
        )


_SCALES = st.floats(-1e38, 1e38, allow_nan=False) | st.sampled_from([1e-40, 1e19, 2e19])


def test_generated_activations(trial, subject):
    quick = [name for name, verb in VERBS.items() if not verb.is_slow]

    @PROFILE
    @given(
        scale=_SCALES,
        row=st.integers(0, 3),
        position=st.integers(0, 8),
        name=st.sampled_from(quick),
        at=st.sampled_from(["source", "target"]),
    )
    def search(scale: float, row: int, position: int, name: str, at: str) -> None:
        def call() -> None:
            def damage(x: Tensor) -> Tensor:
                if len(x) <= row or x.shape[1] <= position:
                    return x
                x = x.clone()
                x[row, position] *= scale
                return x

            with _damaged(subject, _points(subject)[at], damage):
                result = VERBS[name].call(subject, TOKENS)
                # Encoded again row by row, other rows are damaged; a pass goes on with infinity.
                if name not in ("encode", "edit"):
                    VERBS[name].check(subject, TOKENS, result)

        trial.run(
            f"{name} with {scale:g} times the {at} at {row}, {position}, {subject.kind}", call
        )

    search()
