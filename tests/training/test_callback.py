"""Callbacks hear of a fit: its beginning, every record once, and its end, however it ends."""

import os
import signal
from dataclasses import asdict
from typing import Any

import pytest
import torch

import clvq_lens as cl
from clvq_lens.errors import ConfigError, EmptyCorpusError, TerminatedError
from clvq_lens.training.callback import FitEnd, FitStart
from clvq_lens.training.fitting import Fit
from clvq_lens.training.loop import Training
from clvq_lens.training.prediction import EncoderTraining
from tests.callbacks.short_fits import DATA, FIT, killed_fit, new_lens


class Listening:
    """Keeps what it is told, and raises an error at one of its methods if it is to."""

    def __init__(self, raise_in: str = "") -> None:
        self.told: list[Any] = []
        self._raise_in = raise_in

    def on_begin(self, start: FitStart) -> None:
        self._hear("on_begin", start)

    def on_record(self, record: Any) -> None:
        self._hear("on_record", record)

    def on_end(self, end: FitEnd) -> None:
        self._hear("on_end", end)

    def _hear(self, method: str, what: Any) -> None:
        self.told.append(what)
        if method == self._raise_in:
            raise LookupError(f"no more room in {method}")

    @property
    def steps(self) -> list[int]:
        return [record.step for record in self.told if hasattr(record, "step")]


def at_step(monkeypatch: pytest.MonkeyPatch, n_step: int, do: Any) -> None:
    """Does something in the middle of a step of the training."""
    original, steps = Training.train_step, []

    def train_step(self: Training, *args: Any) -> Any:
        steps.append(1)
        if len(steps) == n_step:
            do()
        return original(self, *args)

    monkeypatch.setattr(Training, "train_step", train_step)


def fail() -> None:
    raise ZeroDivisionError("a bug")


# ---- what is told --------------------------------------------------------------------------------


def test_a_callback_hears_of_the_beginning_every_record_and_the_end():
    lens, listening = new_lens(), Listening()
    history = lens.fit(DATA, callbacks=[listening], **FIT)
    start, *records, end = listening.told
    assert records == history.records
    assert len(records) == 8
    assert end == FitEnd(stop="finished", best_step=history.best_step)
    assert (start.lens, start.source, start.target) == ("1-2", lens.source, lens.target)
    assert start.n_tokens == history.n_tokens == 6_000
    assert start.resumed_from is None


def test_the_options_are_told_as_plain_values_by_name():
    lens, listening = new_lens(), Listening()
    lens.fit(DATA, callbacks=[listening], **FIT)
    config = listening.told[0].config
    assert config == asdict(lens.config) | asdict(lens.quantizer.fit_config)
    # No option of one hides an option of the other.
    assert len(config) == len(asdict(lens.config)) + len(asdict(lens.quantizer.fit_config))
    assert all(isinstance(value, bool | int | float | str | None) for value in config.values())


def test_callbacks_change_no_bit():
    with_callback, without = new_lens(), new_lens()
    with_callback.fit(DATA, callbacks=[Listening()], **FIT)
    without.fit(DATA, **FIT)
    theirs = without.quantizer.state_dict()
    for name, tensor in with_callback.quantizer.state_dict().items():
        assert torch.equal(tensor, theirs[name]), name


def test_a_fit_that_ends_early_says_so():
    listening = Listening()
    history = new_lens().fit(DATA, callbacks=[listening], **{**FIT, "patience": 1})
    assert history.stop == "early"
    assert listening.told[-1] == FitEnd(stop="early", best_step=history.best_step)


# ---- other ends ----------------------------------------------------------------------------------


def test_an_interrupted_fit_says_so(monkeypatch, ctrl_c):
    at_step(monkeypatch, 10, ctrl_c)
    listening = Listening()
    history = new_lens().fit(DATA, callbacks=[listening], **FIT)
    assert listening.told[-1] == FitEnd(stop="interrupted", best_step=history.best_step)
    assert listening.told[1:-1] == history.records != []


def test_a_fit_that_is_interrupted_without_a_result_says_so(monkeypatch):
    def press_twice(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Fit, "give_meaning", press_twice)
    listening = Listening()
    with pytest.raises(KeyboardInterrupt):
        new_lens().fit(DATA, callbacks=[listening], **FIT)
    assert listening.told[-1].stop == "interrupted"
    assert isinstance(listening.told[-1].error, KeyboardInterrupt)


def test_a_fit_that_fails_says_why(monkeypatch):
    at_step(monkeypatch, 10, fail)
    listening = Listening()
    lens = new_lens()
    before = {name: tensor.clone() for name, tensor in lens.quantizer.state_dict().items()}
    with pytest.raises(ZeroDivisionError) as raised:
        lens.fit(DATA, callbacks=[listening], **FIT)
    assert listening.told[-1] == FitEnd(stop="failed", best_step=0, error=raised.value)
    assert listening.steps != []
    for name, tensor in lens.quantizer.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_sigterm_is_an_interruption(monkeypatch, tmp_path):
    at_step(monkeypatch, 10, lambda: os.kill(os.getpid(), signal.SIGTERM))
    listening = Listening()
    with pytest.raises(TerminatedError):
        new_lens().fit(DATA, callbacks=[listening], checkpoint=tmp_path, **FIT)
    assert listening.told[-1].stop == "interrupted"
    assert isinstance(listening.told[-1].error, TerminatedError)


def test_a_fit_that_never_begins_tells_nothing():
    listening = Listening()
    with pytest.raises(EmptyCorpusError):
        new_lens().fit([], callbacks=[listening], **FIT)
    assert listening.told == []


# ---- callbacks that raise ------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["on_begin", "on_record", "on_end"])
def test_a_callback_that_raises_ends_the_fit_with_its_error(method: str):
    lens, first, bad = new_lens(), Listening(), Listening(raise_in=method)
    before = {name: tensor.clone() for name, tensor in lens.quantizer.state_dict().items()}
    with pytest.raises(LookupError, match=f"no more room in {method}") as raised:
        lens.fit(DATA, callbacks=[first, bad], **FIT)
    for name, tensor in lens.quantizer.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert not lens.quantizer.fitted
    # The others that began are ended all the same.
    assert first.told[-1] == FitEnd(
        stop="failed", best_step=first.told[-1].best_step, error=raised.value
    )
    assert len(first.steps) == {"on_begin": 0, "on_record": 1, "on_end": 8}[method]


def test_an_error_at_the_end_does_not_hide_the_one_that_ended_the_fit(monkeypatch):
    at_step(monkeypatch, 10, fail)
    with pytest.raises(LookupError) as raised:
        new_lens().fit(DATA, callbacks=[Listening(raise_in="on_end")], **FIT)
    assert isinstance(raised.value.__context__, ZeroDivisionError)


# ---- resumed -------------------------------------------------------------------------------------


@pytest.mark.parametrize("after_steps", [2, 9, 20])
def test_a_resumed_fit_goes_on_with_the_same_steps(tmp_path, after_steps: int):
    expected, before, after = Listening(), Listening(), Listening()
    new_lens().fit(DATA, callbacks=[expected], checkpoint=tmp_path / "whole", **FIT)
    killed_fit(new_lens(), tmp_path / "killed", after_steps, [before])
    history = new_lens().fit(
        DATA, callbacks=[after], checkpoint=tmp_path / "killed", resume=True, **FIT
    )
    resumed_from = after.told[0].resumed_from
    assert resumed_from == after_steps - 1
    assert [step for step in before.steps if step <= resumed_from] + after.steps == expected.steps
    assert [record.step for record in history.records] == expected.steps


def test_a_fit_that_was_ended_while_the_encoder_learned_is_resumed_from_step_0(
    tmp_path, monkeypatch, ctrl_c
):
    original = EncoderTraining._learn_from

    def learn_from(self: EncoderTraining, batch: Any) -> None:
        ctrl_c()
        original(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(EncoderTraining, "_learn_from", learn_from)
        new_lens(encoder="predictive").fit(DATA, checkpoint=tmp_path, **FIT)
    listening = Listening()
    lens = new_lens(encoder="predictive")
    lens.fit(DATA, checkpoint=tmp_path, resume=True, callbacks=[listening], **FIT)
    assert listening.told[0].resumed_from == 0
    assert len(listening.steps) == 8


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.usefixtures("as_for_a_user")
@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        (Listening(), r"callbacks is of type Listening\. Pass a list, such as callbacks=\["),
        ([Listening(), print], r"callbacks\[1\] is of type builtin_function.*on_begin, on_record"),
        ("ab", r"callbacks\[0\] is of type str\. Pass an object with the methods"),
        ([Listening], r"callbacks\[0\] is the class Listening\. Pass an object of it"),
    ],
)
def test_something_else_than_a_list_of_callbacks_is_refused(callbacks: Any, message: str):
    with pytest.raises(ConfigError, match=message):
        new_lens().fit(DATA, callbacks=callbacks, **FIT)


def test_the_protocol_can_be_asked_for():
    assert isinstance(Listening(), cl.Callback)
    assert not isinstance(print, cl.Callback)
