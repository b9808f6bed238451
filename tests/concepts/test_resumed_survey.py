"""A concept table whose pass is killed goes on from its last checkpoint, and is the same."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import clvq_lens as cl
from clvq_lens import errors
from clvq_lens.concepts import survey
from clvq_lens.concepts.table import ConceptTable
from tests.conftest import random_model
from tests.killed import killed_after
from tests.together import started

DATA = torch.randint(0, 40, (600, 20), generator=torch.Generator().manual_seed(3))
LABELS = [[f"label {int(token) % 7}" for token in row] for row in DATA]
OPTIONS: dict[str, Any] = {"n_examples": 3, "token_labels": LABELS, "progress": False}
N_BATCHES = 7


def new_lens() -> cl.Lens:
    """The same lens in every process and every test."""
    lens = random_model().add_clvq(1, 2, n_codes=12, top_k=3, decoder_layers=1)
    lens.fit(DATA[:60, :16], n_tokens=1_000, batch_tokens=256, progress=False)
    return lens


@pytest.fixture(scope="module")
def lens() -> cl.Lens:
    return new_lens()


@pytest.fixture(scope="module")
def undisturbed(lens) -> ConceptTable:
    return lens.concepts(DATA, **OPTIONS)


def killed_survey(n_batches: int, lens: cl.Lens, folder: Path, **options: Any) -> None:
    """A survey that writes a checkpoint after every batch, and dies after some of them."""
    with killed_after(n_batches):
        lens.concepts(DATA, **OPTIONS, checkpoint=folder, checkpoint_every=1e-9, **options)


@pytest.fixture
def batches(monkeypatch) -> list[int]:
    """Gets an item for every batch that is counted."""
    counted: list[int] = []
    original = survey._ConceptSurvey.add

    def add(self: Any, batch: Any) -> None:
        counted.append(1)
        original(self, batch)

    monkeypatch.setattr(survey._ConceptSurvey, "add", add)
    return counted


def test_checkpoints_change_nothing(lens, undisturbed, tmp_path):
    table = lens.concepts(DATA, **OPTIONS, checkpoint=tmp_path, checkpoint_every=1e-9)
    assert table == undisturbed


@pytest.mark.parametrize("n_batches", [1, 3, N_BATCHES])
def test_a_table_whose_pass_is_killed_is_the_same(
    lens, undisturbed, tmp_path, batches, n_batches: int
):
    killed_survey(n_batches, lens, tmp_path)
    batches.clear()
    assert lens.concepts(DATA, **OPTIONS, checkpoint=tmp_path, resume=True) == undisturbed
    assert len(batches) == N_BATCHES - n_batches  # and no batch is read twice
    assert lens.concepts(DATA, **OPTIONS, checkpoint=tmp_path, resume=True) == undisturbed


def test_it_goes_on_from_a_second_kill(lens, undisturbed, tmp_path):
    killed_survey(2, lens, tmp_path)
    killed_survey(3, lens, tmp_path, resume=True)
    assert lens.concepts(DATA, **OPTIONS, checkpoint=tmp_path, resume=True) == undisturbed


def test_a_store_that_moved_is_the_same_data(lens, tmp_path):
    store = cl.cache_activations(
        lens.model, DATA, tmp_path / "store", points=[1, 2], progress=False
    )
    undisturbed = lens.concepts(store, n_examples=3, progress=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[__name__], "DATA", store)
        patch.setitem(OPTIONS, "token_labels", None)
        killed_survey(3, lens, tmp_path / "table")
    moved = cl.ActivationStore(store.folder.rename(tmp_path / "moved"))
    options: dict[str, Any] = {"n_examples": 3, "progress": False, "resume": True}
    assert lens.concepts(moved, checkpoint=tmp_path / "table", **options) == undisturbed


def test_sigterm_writes_a_checkpoint_of_a_survey(lens, undisturbed, tmp_path, batches, monkeypatch):
    original = survey._ConceptSurvey._count

    def count(self: Any, *args: Any) -> None:
        if len(batches) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        original(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(survey._ConceptSurvey, "_count", count)
        with pytest.raises(errors.TerminatedError, match="A checkpoint is in"):
            lens.concepts(DATA, **OPTIONS, checkpoint=tmp_path)
    assert len(batches) == 3
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert lens.concepts(DATA, **OPTIONS, checkpoint=tmp_path, resume=True) == undisturbed
    assert len(batches) == N_BATCHES


def test_ctrl_c_gives_the_table_of_what_was_read_and_the_rest_can_follow(
    lens, undisturbed, tmp_path, batches, monkeypatch, ctrl_c
):
    original = survey._ConceptSurvey._count

    def count(self: Any, *args: Any) -> None:
        if len(batches) == 3:
            ctrl_c()
        original(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(survey._ConceptSurvey, "_count", count)
        table = lens.concepts(DATA, **OPTIONS, checkpoint=tmp_path)
    assert not table.complete
    assert table.n_tokens < undisturbed.n_tokens
    assert lens.concepts(DATA, **OPTIONS, checkpoint=tmp_path, resume=True) == undisturbed


def survey_with_checkpoints(folder: Path) -> None:
    new_lens().concepts(DATA, **OPTIONS, checkpoint=folder, checkpoint_every=1e-9)


@pytest.mark.slow
def test_sigkill_costs_no_bit_of_a_table(lens, undisturbed, tmp_path):
    process = started(survey_with_checkpoints, tmp_path)
    for _ in range(2_400):
        if list(tmp_path.glob("checkpoint-*")):
            break
        time.sleep(0.05)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert lens.concepts(DATA, **OPTIONS, checkpoint=tmp_path, resume=True) == undisturbed


# ---- what is refused ----------------------------------------------------------------------------


def test_a_folder_with_a_table_is_not_written_over(lens, tmp_path):
    lens.concepts(DATA, **OPTIONS, checkpoint=tmp_path)
    with pytest.raises(errors.PathTakenError, match="holds checkpoints of a concept table"):
        lens.concepts(DATA, **OPTIONS, checkpoint=tmp_path)


def test_going_on_from_nothing_is_refused(lens, tmp_path):
    with pytest.raises(errors.CheckpointError, match="the concept table that was interrupted"):
        lens.concepts(DATA, checkpoint=tmp_path, resume=True)
    with pytest.raises(errors.ConfigError, match="resume=True needs a folder"):
        lens.concepts(DATA, resume=True)
    with pytest.raises(errors.ConfigError, match="checkpoint_every is 0"):
        lens.concepts(DATA, checkpoint=tmp_path, checkpoint_every=0.0)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"n_examples": 4}, "n_examples: 4, not 3"),
        ({"seed": 1}, "seed: 1, not 0"),
        ({"data": DATA[:599]}, "data: "),
        ({"token_labels": [["a"] * 20] * 600}, "token_labels: "),
        ({"token_labels": None}, "token_labels: None"),
    ],
)
def test_another_table_is_refused(lens, tmp_path, changed: dict[str, Any], said: str):
    arguments: dict[str, Any] = {"data": DATA, **OPTIONS, "checkpoint": tmp_path}
    lens.concepts(**arguments)
    with pytest.raises(errors.CheckpointError, match=f"of another concept table: .*{said}"):
        lens.concepts(**{**arguments, **changed}, resume=True)


def test_another_quantizer_is_refused(lens, tmp_path):
    lens.concepts(DATA, **OPTIONS, checkpoint=tmp_path)
    other = new_lens()
    other.quantizer.codebook.vectors[0, 0] += 1e-6
    with pytest.raises(errors.CheckpointError, match="another concept table: weights: "):
        other.concepts(DATA, **OPTIONS, checkpoint=tmp_path, resume=True)


def test_white_space_makes_other_data(stories_model, tmp_path):
    """The digest of a document that tells duplicates apart does not count it; tokens do."""
    lens = stories_model.add_clvq(1, 2, n_codes=2, decoder="table", name="white space")
    try:
        lens.fit(["one two three", "four five six"], n_tokens=50, progress=False)
        lens.concepts(["one two"], checkpoint=tmp_path, progress=False)
        with pytest.raises(errors.CheckpointError, match="another concept table: data: "):
            lens.concepts(["one  two"], checkpoint=tmp_path, resume=True, progress=False)
    finally:
        lens.remove()


def test_a_damaged_checkpoint_of_a_survey_is_told(lens, undisturbed, tmp_path):
    killed_survey(3, lens, tmp_path)
    last = max(tmp_path.glob("checkpoint-*"))
    last.write_bytes(last.read_bytes()[:-1])
    with pytest.raises(errors.FileFormatError, match=r"is damaged.*Delete checkpoint-00000003"):
        lens.concepts(DATA, **OPTIONS, checkpoint=tmp_path, resume=True)
    last.unlink()
    assert lens.concepts(DATA, **OPTIONS, checkpoint=tmp_path, resume=True) == undisturbed
