"""What a run of Weights & Biases is given; by a stand-in, and once by the package, offline."""

import inspect
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from clvq_lens.callbacks import WandB
from clvq_lens.errors import ConfigError, MissingDependencyError
from clvq_lens.training.callback import FitEnd
from tests.callbacks.short_fits import DATA, FIT, a_record, a_start, killed_fit, new_lens


class Config(dict):
    def update(self, values: dict[str, Any], allow_val_change: bool | None = None) -> None:
        assert allow_val_change or not set(values) & set(self)
        super().update(values)


class StandIn:
    """The part of a run that is used, with the signatures of the real one."""

    def __init__(self) -> None:
        self.logged: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self.config = Config()
        self.axes: dict[str, str | None] = {}
        self.exit_code: int | None = None

    def define_metric(self, name: str, step_metric: str | None = None) -> None:
        self.axes[name] = step_metric

    def log(self, data: dict[str, Any]) -> None:
        self.logged.append(data)
        self.summary.update(data)

    def finish(self, exit_code: int | None = None) -> None:
        self.exit_code = exit_code

    @property
    def steps(self) -> list[int]:
        return [fields["1-2/step"] for fields in self.logged]


@pytest.fixture
def begun(monkeypatch) -> list[tuple[StandIn, dict[str, Any]]]:
    """The runs that are begun, and their options."""
    runs: list[tuple[StandIn, dict[str, Any]]] = []

    def init(**options: Any) -> StandIn:
        runs.append((StandIn(), options))
        return runs[-1][0]

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    return runs


def test_a_run_is_begun_for_a_fit_and_finished_with_it(begun):
    callback = WandB(project="concepts", mode="offline")
    assert begun == []
    history = new_lens().fit(DATA, callbacks=[callback], **FIT)
    ((run, options),) = begun
    assert options == {"project": "concepts", "mode": "offline"}
    frame = history.frame().dropna(axis=1)
    assert run.logged == [
        {f"1-2/{name}": value for name, value in row.items()} for row in frame.to_dict("records")
    ]
    assert run.axes == {"1-2/step": None, "1-2/*": "1-2/step"}
    assert run.config["1-2"]["n_codes"] == 12
    assert run.config["1-2"]["n_tokens"] == 6_000
    assert (run.summary["1-2/stop"], run.summary["1-2/best_step"]) == (
        "finished",
        history.best_step,
    )
    assert run.exit_code == 0


def test_a_run_of_a_fit_that_fails_is_marked_as_failed(begun):
    for stop, exit_code in (("failed", 1), ("interrupted", 0)):
        callback = WandB(project="concepts")
        callback.on_begin(a_start())
        callback.on_end(FitEnd(stop=stop, best_step=0, error=ValueError("a bug")))
        assert begun[-1][0].exit_code == exit_code


def test_a_run_that_is_passed_stays_open_for_other_fits():
    run = StandIn()
    callback = WandB(run)
    for _ in range(2):
        new_lens().fit(DATA, callbacks=[callback], **FIT)
    assert run.exit_code is None
    assert run.steps[:8] == run.steps[8:]
    assert len(run.steps) == 16


@pytest.mark.parametrize("after_steps", [2, 9, 20])
def test_a_resumed_fit_logs_no_record_twice(tmp_path: Path, after_steps: int):
    run = StandIn()
    killed_fit(new_lens(), tmp_path, after_steps, [WandB(run)])
    options: dict[str, Any] = {"checkpoint": tmp_path, "resume": True, **FIT}
    history = new_lens().fit(DATA, callbacks=[WandB(run)], **options)
    assert run.steps == [record.step for record in history.records]


def test_records_beyond_the_checkpoint_are_not_logged_again():
    run = StandIn()
    before, after = WandB(run), WandB(run)
    before.on_begin(a_start())
    for step in (2, 4, 6):
        before.on_record(a_record(step))
    after.on_begin(a_start(resumed_from=3))
    for step in (4, 6, 8):
        after.on_record(a_record(step))
    assert run.steps == [2, 4, 6, 8]
    after.on_begin(a_start())  # another fit in the same run
    after.on_record(a_record(2))
    assert run.steps == [2, 4, 6, 8, 2]


def test_a_resumed_fit_in_a_new_run_logs_what_follows():
    run = StandIn()
    callback = WandB(run)
    callback.on_begin(a_start(resumed_from=3))
    callback.on_record(a_record(4))
    assert run.steps == [4]


def test_options_beside_a_run_are_refused():
    with pytest.raises(ConfigError, match=r"open already, so project, name would have no effect"):
        WandB(StandIn(), project="concepts", name="first")


def test_a_name_in_the_place_of_a_run_is_refused():
    with pytest.raises(ConfigError, match=r"run is of type str\. .*such as project='concepts'"):
        WandB("concepts")


def test_without_the_package_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'wandb>=0\.17'"):
        WandB(project="concepts")
    WandB(StandIn())  # a run that is there needs no import


@pytest.fixture
def wandb(monkeypatch, tmp_path: Path) -> Any:
    monkeypatch.setenv("WANDB_SILENT", "true")
    for folder in ("DATA", "CACHE", "CONFIG", "ARTIFACT"):
        monkeypatch.setenv(f"WANDB_{folder}_DIR", str(tmp_path / folder))
    return pytest.importorskip("wandb", reason="needs: pip install wandb")


@pytest.mark.parametrize("method", ["define_metric", "log", "finish"])
def test_the_stand_in_has_the_signatures_of_the_package(wandb, method: str):
    real = inspect.signature(getattr(wandb.Run, method)).parameters
    ours = inspect.signature(getattr(StandIn, method)).parameters
    assert [name for name in real if name in ours] == list(ours)


@pytest.mark.slow
def test_the_package_takes_what_it_is_given(wandb, tmp_path: Path):
    callback = WandB(project="concepts", mode="offline", dir=str(tmp_path))
    history = new_lens().fit(DATA, callbacks=[callback], **FIT)
    with wandb.init(project="concepts", mode="offline", dir=str(tmp_path)) as run:
        new_lens().fit(DATA, callbacks=[WandB(run)], **FIT)
        run.log({"mine": 1.0})
        assert run.summary["1-2/step"] == history.records[-1].step
        assert run.summary["1-2/best_step"] == history.best_step
        assert json.loads(json.dumps(dict(run.config)))["1-2"]["n_codes"] == 12
    assert len(list(tmp_path.glob("wandb/offline-run-*/*.wandb"))) == 2
