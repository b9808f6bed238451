"""A fit that is killed goes on from its last checkpoint, and ends with the same bits."""

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import clvq_lens as cl
from clvq_lens import errors
from clvq_lens.data.store import cache
from clvq_lens.training import kept_data
from clvq_lens.training.loop import Training
from tests.conftest import random_model
from tests.killed import killed_after
from tests.together import run_apart, started

GENERATOR = torch.Generator().manual_seed(2)
DATA = torch.randint(0, 40, (80, 16), generator=GENERATOR)
FIT: dict[str, Any] = {
    "n_tokens": 6_000,
    "batch_tokens": 256,
    "progress": False,
    "seed": 3,
    "patience": 99,
}


def new_lens(**options: Any) -> cl.Lens:
    options = {"n_codes": 12, "top_k": 3, "decoder_layers": 1, **options}
    return random_model().add_clvq(1, 2, **options)


def assert_same_bits(lens: cl.Lens, other: cl.Lens) -> None:
    theirs = other.quantizer.state_dict()
    for name, tensor in lens.quantizer.state_dict().items():
        assert torch.equal(tensor, theirs[name]), name


def killed_fit(n_checkpoints: int, lens: cl.Lens, data: Any, folder: Path, **fit: Any) -> None:
    """A fit that writes a checkpoint after every step, and dies after some of them."""
    with killed_after(n_checkpoints):
        lens.fit(data, checkpoint=folder, checkpoint_every=1e-9, **fit)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Callable[[dict[str, Any], dict[str, Any]], cl.Lens]:
    """Lenses whose fit nobody killed, each of them fitted once."""
    lenses: dict[str, cl.Lens] = {}

    def fitted(options: dict[str, Any], fit: dict[str, Any]) -> cl.Lens:
        name = str((options, fit))
        if name not in lenses:
            lenses[name] = new_lens(**options)
            folder = tmp_path_factory.mktemp("undisturbed")
            lenses[name].fit(DATA, checkpoint=folder, **fit)
        return lenses[name]

    return fitted


# The encoder ends with its 24th batch, within a pass over the data; what follows draws its own.
FIT_ENDING_WITHIN_A_PASS = {**FIT, "n_tokens": 5_700}


@pytest.mark.parametrize("fit", [FIT, FIT_ENDING_WITHIN_A_PASS], ids=["end", "within"])
@pytest.mark.parametrize("n_checkpoints", [1, 4, 20, 24, 25, 44])
@pytest.mark.parametrize(
    "options",
    [
        {"encoder": "predictive", "decoder": "transformer", "decoder_dropout": 0.1},
        {"encoder": "predictive", "decoder": "table"},
    ],
)
def test_a_fit_that_is_killed_ends_with_the_same_bits(
    tmp_path, undisturbed, options, n_checkpoints: int, fit: dict[str, Any]
):
    lens = new_lens(**options)
    killed_fit(n_checkpoints, lens, DATA, tmp_path / "killed", **fit)
    assert not lens.quantizer.fitted  # what it was before
    lens = new_lens(**options)
    history = lens.fit(DATA, checkpoint=tmp_path / "killed", resume=True, **fit)
    assert_same_bits(lens, undisturbed(options, fit))
    assert history.records[-1].n_tokens >= fit["n_tokens"]


def test_checkpoints_every_few_seconds_change_nothing(tmp_path):
    options: dict[str, Any] = {"encoder": "predictive", "decoder": "table"}
    store = cl.cache_activations(
        random_model(), DATA, tmp_path / "store", points=[1, 2], progress=False
    )
    with_checkpoints, without = new_lens(**options), new_lens(**options)
    with_checkpoints.fit(store, checkpoint=tmp_path / "fit", checkpoint_every=1e-9, **FIT)
    without.fit(store, **FIT)
    assert_same_bits(with_checkpoints, without)
    names = sorted(path.name for path in (tmp_path / "fit").iterdir())
    assert len(names) == 2  # the last two
    assert all(name.startswith("checkpoint-000000") for name in names)


def fit_and_save(checkpoints: Path, resume: bool, out: Path) -> None:
    lens = new_lens(encoder="predictive")
    lens.fit(DATA, checkpoint=checkpoints, checkpoint_every=0.05, resume=resume, **FIT)
    lens.save(out)


def wait_for_a_checkpoint(folder: Path, after: int = 0) -> int:
    for _ in range(600):
        numbers = [int(path.name[11:19]) for path in folder.glob("checkpoint-*")]
        if max(numbers, default=0) > after:
            return max(numbers)
        time.sleep(0.05)
    raise AssertionError("no checkpoint was written")


@pytest.mark.slow
def test_sigkill_at_any_moment_costs_no_bit(tmp_path):
    run_apart(fit_and_save, tmp_path / "whole", False, tmp_path / "expected")
    seen = 0
    for resume in (False, True, True):
        process = started(fit_and_save, tmp_path / "killed", resume, tmp_path / "never")
        seen = wait_for_a_checkpoint(tmp_path / "killed", seen)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    run_apart(fit_and_save, tmp_path / "killed", True, tmp_path / "found")
    assert not (tmp_path / "never").exists()
    expected, found = cl.load(tmp_path / "expected"), cl.load(tmp_path / "found")
    for name, tensor in expected.state_dict().items():
        assert torch.equal(tensor, found.state_dict()[name]), name


def test_sigterm_writes_a_checkpoint_and_says_so(tmp_path, monkeypatch):
    lens, undisturbed = new_lens(), new_lens()
    undisturbed.fit(DATA, checkpoint=tmp_path / "undisturbed", **FIT)
    steps: list[int] = []
    original = Training.train_step

    def train_step(self: Training, *args: Any) -> Any:
        steps.append(1)
        if len(steps) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "train_step", train_step)
        with pytest.raises(errors.TerminatedError, match="A checkpoint is in"):
            lens.fit(DATA, checkpoint=tmp_path / "fit", **FIT)
    assert len(steps) == 3
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    lens.fit(DATA, checkpoint=tmp_path / "fit", resume=True, **FIT)
    assert_same_bits(lens, undisturbed)


def test_ctrl_c_keeps_what_was_learned_and_can_be_gone_on_from(tmp_path, monkeypatch, ctrl_c):
    lens, undisturbed = new_lens(), new_lens()
    undisturbed.fit(DATA, checkpoint=tmp_path / "undisturbed", **FIT)
    original = Training.train_step
    steps: list[int] = []

    def train_step(self: Training, *args: Any) -> Any:
        steps.append(1)
        if len(steps) == 3:
            ctrl_c()
        return original(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "train_step", train_step)
        history = lens.fit(DATA, checkpoint=tmp_path / "fit", **FIT)
    assert history.stop == "interrupted"
    assert lens.quantizer.fitted
    history = lens.fit(DATA, checkpoint=tmp_path / "fit", resume=True, **FIT)
    assert history.stop == "finished"
    assert_same_bits(lens, undisturbed)


# ---- what is refused ----------------------------------------------------------------------------


def test_a_folder_with_checkpoints_is_not_written_over(tmp_path):
    lens = new_lens(decoder="table")
    lens.fit(DATA, checkpoint=tmp_path, **FIT)
    with pytest.raises(errors.PathTakenError, match=r"Pass resume=True \(--resume\) to go on"):
        lens.fit(DATA, checkpoint=tmp_path, **FIT)


def test_resuming_without_a_checkpoint_is_refused(tmp_path):
    lens = new_lens(decoder="table")
    with pytest.raises(errors.CheckpointError, match="holds no checkpoint to go on with"):
        lens.fit(DATA, checkpoint=tmp_path, resume=True, **FIT)
    with pytest.raises(errors.ConfigError, match="resume=True needs a folder"):
        lens.fit(DATA, resume=True, **FIT)
    with pytest.raises(errors.ConfigError, match="checkpoint_every"):
        lens.fit(DATA, checkpoint=tmp_path, checkpoint_every=0.0, **FIT)


@pytest.mark.parametrize(
    ("quantizer", "changed", "said"),
    [
        ({"n_codes": 13}, {}, "n_codes: 13, not 12"),
        ({}, {"learning_rate": 0.5}, "learning_rate: 0.5, not None"),
        ({"decoder": "mlp"}, {}, "decoder: 'mlp', not 'table'"),
    ],
)
def test_a_checkpoint_of_another_fit_is_refused(tmp_path, quantizer, changed, said: str):
    new_lens(decoder="table").fit(DATA, checkpoint=tmp_path, **FIT)
    lens = new_lens(**{"decoder": "table", **quantizer})
    with pytest.raises(errors.CheckpointError, match=f"of another fit: .*{said}"):
        lens.fit(DATA, checkpoint=tmp_path, resume=True, **{**FIT, **changed})


def test_a_mistake_in_the_options_leaves_the_activations_of_a_fit_alone(tmp_path):
    fit = {**FIT, "n_tokens": 600, "held_out_fraction": 0.1}
    undisturbed, lens = new_lens(), new_lens()
    undisturbed.fit(DATA, checkpoint=tmp_path / "undisturbed", **fit)
    killed_fit(2, lens, DATA, tmp_path / "fit", **fit)
    for resume, kind, said in (
        (True, errors.CheckpointError, "n_tokens: 1200, not 600"),
        (False, errors.PathTakenError, "Pass resume=True"),
    ):
        with pytest.raises(kind, match=said):
            lens.fit(DATA, checkpoint=tmp_path / "fit", resume=resume, **{**fit, "n_tokens": 1_200})
    lens.fit(DATA, checkpoint=tmp_path / "fit", resume=True, **fit)
    assert_same_bits(lens, undisturbed)


def test_ctrl_c_while_activations_are_kept_is_no_fit_on_a_part(tmp_path, monkeypatch, ctrl_c):
    lens = new_lens()
    read, calls = cache.read, []

    def interrupted(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            ctrl_c()
        return read(*args)

    monkeypatch.setattr(cache, "read", interrupted)
    # Small shards, so that some are whole.
    monkeypatch.setattr(
        kept_data, "cache_activations", partial(cl.cache_activations, shard_bytes=2**13)
    )
    with pytest.raises(KeyboardInterrupt):
        lens.fit(DATA, checkpoint=tmp_path, **FIT)
    assert not lens.quantizer.fitted
    assert not cl.ActivationStore(tmp_path / "activations").index.complete
    lens.fit(DATA, checkpoint=tmp_path, **FIT)
    assert lens.quantizer.fitted


def test_a_store_of_the_same_texts_in_another_dtype_is_other_data(tmp_path):
    lens = new_lens(decoder="table")
    options: dict[str, Any] = {"points": [1, 2], "progress": False}
    store = cl.cache_activations(lens.model, DATA, tmp_path / "a", **options)
    half = cl.cache_activations(lens.model, DATA, tmp_path / "b", dtype="bfloat16", **options)
    lens.fit(store, checkpoint=tmp_path / "fit", **FIT)
    with pytest.raises(errors.CheckpointError, match="of another fit: data"):
        lens.fit(half, checkpoint=tmp_path / "fit", resume=True, **FIT)


def test_a_checkpoint_of_other_data_is_refused(tmp_path):
    lens = new_lens(decoder="table")
    options: dict[str, Any] = {"points": [1, 2], "progress": False}
    store = cl.cache_activations(lens.model, DATA, tmp_path / "a", **options)
    other = cl.cache_activations(lens.model, DATA[:70], tmp_path / "b", **options)
    lens.fit(store, checkpoint=tmp_path / "fit", **FIT)
    with pytest.raises(errors.CheckpointError, match="of another fit: data"):
        lens.fit(other, checkpoint=tmp_path / "fit", resume=True, **FIT)


def test_a_damaged_checkpoint_is_told_and_the_one_before_can_be_used(tmp_path):
    lens, undisturbed = new_lens(decoder="table"), new_lens(decoder="table")
    undisturbed.fit(DATA, checkpoint=tmp_path / "undisturbed", **FIT)
    killed_fit(9, lens, DATA, tmp_path, **FIT)
    last = max(tmp_path.glob("checkpoint-*"))
    content = bytearray(last.read_bytes())
    content[-3] ^= 1
    last.write_bytes(content)
    with pytest.raises(errors.FileFormatError, match=r"is damaged.*Delete checkpoint-00000009"):
        lens.fit(DATA, checkpoint=tmp_path, resume=True, **FIT)
    last.unlink()
    lens.fit(DATA, checkpoint=tmp_path, resume=True, **FIT)
    assert_same_bits(lens, undisturbed)
