"""A comparison that is killed goes on with what is missing, and ends with the same bits."""

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import clvq_lens as cl
from clvq_lens import errors
from clvq_lens.comparison.comparison import Comparison
from clvq_lens.comparison.measurement import Measurement
from clvq_lens.lens import Lens
from clvq_lens.training.checkpoint import Checkpoints
from clvq_lens.training.loop import Training
from tests.conftest import random_model
from tests.together import run_apart, started

GENERATOR = torch.Generator().manual_seed(2)
TRAIN = list(torch.randint(0, 40, (80, 16), generator=GENERATOR))
HELD_OUT = list(torch.randint(0, 40, (20, 12), generator=GENERATOR))
FIT = cl.FitConfig(n_tokens=2_000, batch_tokens=256, seed=3, patience=99, n_evaluations=2)
METHODS = ["k-means", "token identity"]
ARGUMENTS: dict[str, Any] = {
    "train": TRAIN,
    "config": FIT,
    "progress": False,
    "decoders": ["table", "mlp"],
    "n_seeds": 2,
}


def new_lens(encoder: str = "residual") -> Lens:
    """The same lens in every process and every test."""
    lens = random_model().add_clvq(1, 2, n_codes=12, top_k=3, encoder=encoder, decoder="mlp")
    lens.fit(torch.stack(TRAIN), FIT, progress=False)
    return lens


@pytest.fixture(scope="module")
def undisturbed() -> Comparison:
    return cl.compare([new_lens(), *METHODS], HELD_OUT, **ARGUMENTS)


def compared(folder: Path, *, resume: bool = False, **changed: Any) -> Comparison:
    return cl.compare(
        [new_lens(), *METHODS],
        HELD_OUT,
        **{**ARGUMENTS, **changed},
        checkpoint=folder,
        resume=resume,
    )


def assert_same_bits(comparison: Comparison, other: Comparison) -> None:
    pd.testing.assert_frame_equal(comparison.fits, other.fits, check_exact=True)


def killed_at_call(number: int, owner: type, name: str, work: Callable[[], object]) -> None:
    """Work that dies when a method is called for the given time, before anything is done."""
    original, calls = getattr(owner, name), []

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == number:
            raise RuntimeError("killed")
        return original(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, counted)
        with pytest.raises(RuntimeError, match="killed"):
            work()


def test_a_folder_changes_no_bit(undisturbed, tmp_path):
    assert_same_bits(compared(tmp_path), undisturbed)
    assert_same_bits(compared(tmp_path, resume=True), undisturbed)
    assert not list((tmp_path / "running").glob("*"))


@pytest.mark.parametrize(
    ("number", "owner", "name"),
    [
        (1, Lens, "save"),  # before anything is finished
        (4, Lens, "save"),
        (1, Comparison, "save"),  # after what ablations cost is written, and before the numbers
        (2, Comparison, "save"),
        (9, Comparison, "save"),
        (8, Checkpoints, "save"),
        (3, Measurement, "of_all_fits"),
        (1, Measurement, "of_prediction"),  # after everything else
    ],
)
def test_a_comparison_that_is_killed_ends_with_the_same_bits(
    undisturbed, tmp_path, number: int, owner: type, name: str
):
    killed_at_call(number, owner, name, lambda: compared(tmp_path))
    assert_same_bits(compared(tmp_path, resume=True), undisturbed)


def test_what_is_finished_is_not_done_again(undisturbed, tmp_path, monkeypatch):
    killed_at_call(9, Comparison, "save", lambda: compared(tmp_path))
    fits = {path.name for path in (tmp_path / "fits").iterdir()}
    assert fits >= {"1-2,seed 4", "1-2,table,fit 0", "1-2,table,fit 1", "k-means,seed 4"}
    measured: list[tuple[str, str, int]] = []
    original = Measurement.of_fit

    def of_fit(self: Measurement, method: str, decoder: str, number: int, lens: Lens) -> Any:
        measured.append((method, decoder, number))
        return original(self, method, decoder, number, lens)

    monkeypatch.setattr(Measurement, "of_fit", of_fit)
    assert_same_bits(compared(tmp_path, resume=True), undisturbed)
    # Six files are those of the lens, two those of k-means with a table.
    assert measured[:2] == [("k-means", "mlp", 0), ("k-means", "mlp", 1)]


def test_a_store_that_moved_is_the_same_data(tmp_path):
    lens = new_lens()
    at = {"points": ["hook_embed", 1, 2], "progress": False}
    store = cl.cache_activations(lens.model, torch.stack(TRAIN), tmp_path / "store", **at)
    whole = compared(tmp_path / "whole", train=store)
    killed_at_call(9, Comparison, "save", lambda: compared(tmp_path / "killed", train=store))
    moved = shutil.move(store.folder, tmp_path / "moved")
    found = compared(tmp_path / "killed", train=cl.ActivationStore(moved), resume=True)
    assert_same_bits(found, whole)
    other = cl.cache_activations(lens.model, torch.stack(TRAIN[:70]), tmp_path / "other", **at)
    with pytest.raises(errors.CheckpointError, match="another comparison: train: "):
        compared(tmp_path / "killed", train=other, resume=True)


@pytest.mark.parametrize("at_step", [3, 8])  # in a refit of the lens, and in that of a decoder
def test_sigterm_in_a_fit_on_a_store_costs_no_step(tmp_path, monkeypatch, at_step: int):
    store = cl.cache_activations(
        new_lens().model,
        torch.stack(TRAIN),
        tmp_path / "store",
        points=["hook_embed", 1, 2],
        progress=False,
    )
    options: dict[str, Any] = {"train": store, "decoders": ["mlp"], "bounds": False}
    whole = compared(tmp_path / "whole", **options)
    steps: list[int] = []
    original = Training.train_step

    def train_step(self: Training, *args: Any) -> Any:
        steps.append(1)
        if len(steps) == n_before + at_step:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *args)

    monkeypatch.setattr(Training, "train_step", train_step)
    n_before = 1_000
    new_lens()
    n_before = 2 * len(steps)  # `compared` fits that lens anew
    with pytest.raises(errors.TerminatedError, match=r"is in .*killed; resume=True goes on"):
        compared(tmp_path / "killed", **options)
    assert len(steps) == n_before + at_step
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert list((tmp_path / "killed" / "running").glob("*/checkpoint-*"))
    assert_same_bits(compared(tmp_path / "killed", **options, resume=True), whole)


def test_sigterm_elsewhere_ends_it_at_once(undisturbed, tmp_path, monkeypatch):
    original = Measurement.evaluate

    def evaluate(self: Measurement, lens: Lens) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return original(self, lens)

    with monkeypatch.context() as patch:
        patch.setattr(Measurement, "evaluate", evaluate)
        with pytest.raises(errors.TerminatedError, match="What is finished is in"):
            compared(tmp_path)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert not list((tmp_path).glob("measured/*"))
    assert_same_bits(compared(tmp_path, resume=True), undisturbed)


def test_ctrl_c_in_a_fit_does_not_pass_for_a_whole_one(undisturbed, tmp_path, monkeypatch, ctrl_c):
    lens = new_lens()
    original, steps = Training.train_step, []

    def train_step(self: Training, *args: Any) -> Any:
        steps.append(1)
        if len(steps) == 3:
            ctrl_c()
        return original(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "train_step", train_step)
        with pytest.raises(KeyboardInterrupt):
            cl.compare([lens, *METHODS], HELD_OUT, **ARGUMENTS, checkpoint=tmp_path)
    assert set(cl.clvqs(lens.model)) == {"1-2"}
    assert not list(tmp_path.glob("fits/*"))
    assert_same_bits(compared(tmp_path, resume=True), undisturbed)


def compare_and_save(checkpoints: Path, resume: bool, out: Path) -> None:
    compared(checkpoints, resume=resume).save(out)


def wait_for_files(folder: Path, more_than: int) -> int:
    for _ in range(1_200):
        n_files = len(list(folder.glob("measured/*.json"))) + len(list(folder.glob("fits/*")))
        if n_files > more_than:
            return n_files
        time.sleep(0.05)
    raise AssertionError("nothing was finished")


@pytest.mark.slow
def test_sigkill_at_any_moment_costs_no_bit_of_a_comparison(undisturbed, tmp_path):
    n_files = 0
    for resume in (False, True, True):
        process = started(compare_and_save, tmp_path / "killed", resume, tmp_path / "never.json")
        n_files = wait_for_files(tmp_path / "killed", n_files)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    run_apart(compare_and_save, tmp_path / "killed", True, tmp_path / "found.json")
    assert_same_bits(Comparison.load(tmp_path / "found.json"), undisturbed)


# ---- what is refused ----------------------------------------------------------------------------


def test_a_folder_with_a_comparison_is_not_written_over(tmp_path):
    few: dict[str, Any] = {"progress": False, "checkpoint": tmp_path}
    cl.compare([new_lens()], HELD_OUT, **few)
    with pytest.raises(errors.PathTakenError, match=r"checkpoints of a comparison\. Pass resume"):
        cl.compare([new_lens()], HELD_OUT, **few)


def test_going_on_from_nothing_is_refused(tmp_path):
    lens = new_lens()
    with pytest.raises(errors.CheckpointError, match="the comparison that was interrupted"):
        cl.compare([lens], HELD_OUT, checkpoint=tmp_path, resume=True, progress=False)
    with pytest.raises(errors.ConfigError, match="resume=True needs a folder"):
        cl.compare([lens], HELD_OUT, resume=True, progress=False)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"texts": HELD_OUT[:9]}, "texts: "),
        ({"seed": 1}, "seed: 1, not 0"),
        ({"config": FIT.replace(n_tokens=1_000)}, "config.n_tokens: 1000, not 2000"),
        ({"decoders": ["table"]}, r"decoders: \['table'\], not \['mlp'\]"),
        ({"methods": [new_lens, "k-means"]}, "k-means: 'a baseline', not None"),
        ({"methods": [lambda: new_lens("predictive")]}, "encoder: 'predictive', not 'residual'"),
    ],
)
def test_another_comparison_is_refused(tmp_path, changed: dict[str, Any], said: str):
    arguments = {"methods": [new_lens], "texts": HELD_OUT, "train": TRAIN, "config": FIT}

    def compare_(*, resume: bool, **arguments: Any) -> None:
        methods = [each() if callable(each) else each for each in arguments.pop("methods")]
        arguments |= {"bounds": False, "progress": False, "checkpoint": tmp_path}
        cl.compare(methods, **arguments, resume=resume)

    compare_(**arguments, resume=False)
    with pytest.raises(errors.CheckpointError, match=f"of another comparison: .*{said}"):
        compare_(**{**arguments, **changed}, resume=True)


def test_another_model_is_refused(tmp_path):
    lens = new_lens()
    cl.compare([lens], HELD_OUT, checkpoint=tmp_path, progress=False)
    lens.model.blocks[3].mlp.W_in.data[0] += 1  # above the target, so that the lens fits it
    with pytest.raises(errors.CheckpointError, match="of another comparison: weights: "):
        cl.compare([lens], HELD_OUT, checkpoint=tmp_path, resume=True, progress=False)


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("fits/k-means,seed 4/weights-*", r"is damaged.* Or delete .* to fit that again\."),
        ("measured/k-means,table,fit 0.json", r"is damaged.* Or delete .* to measure that again\."),
    ],
)
def test_damage_is_found_and_can_be_mended(undisturbed, tmp_path, pattern: str, said: str):
    compared(tmp_path)
    (path,) = tmp_path.glob(pattern)
    content = bytearray(path.read_bytes())
    content[-40] ^= 1
    path.write_bytes(content)
    with pytest.raises(errors.FileFormatError, match=said):
        compared(tmp_path, resume=True)
    shutil.rmtree(path.parent) if path.suffix == ".safetensors" else path.unlink()
    assert_same_bits(compared(tmp_path, resume=True), undisturbed)
