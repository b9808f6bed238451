"""What a system does to long work: a full disk, a folder that takes no files, too little memory."""

import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import clvq_lens as cl
from clvq_lens import errors
from clvq_lens.training.loop import Training
from clvq_lens.writing import locked
from tests.conftest import random_model
from tests.training.test_checkpoint import DATA, FIT, assert_same_bits, new_lens

resource = pytest.importorskip("resource", reason="limits of a process are those of POSIX")

LIMITED = """
import resource, signal, sys, warnings
warnings.simplefilter("ignore")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as Python does: then writing fails with EFBIG
import clvq_lens as cl
from tests.conftest import random_model
from tests.training.test_checkpoint import DATA, FIT, new_lens

most = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
try:
    {work}
except cl.errors.PathError as error:
    print(error)
"""
CACHE = "cl.cache_activations(random_model(), DATA, sys.argv[1], points=[1, 2], shard_bytes=2**14)"
CHECKPOINTS = "new_lens().fit(DATA, checkpoint=sys.argv[1], checkpoint_every=1e-9, **FIT)"


def with_small_files(work: str, folder: Path, most_bytes: int) -> str:
    """What a script prints whose files may not be larger than that."""
    command = [sys.executable, "-c", LIMITED.replace("{work}", work), str(folder), str(most_bytes)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def cached(folder: Path) -> cl.ActivationStore:
    return cl.cache_activations(
        random_model(), DATA, folder, points=[1, 2], shard_bytes=2**14, progress=False
    )


@pytest.mark.slow
def test_a_disk_that_is_full_ends_a_cache_which_goes_on_once_there_is_space(tmp_path):
    said = with_small_files(CACHE, tmp_path / "full", 2**13)
    assert "Free some space" in said
    whole, goes_on = cached(tmp_path / "whole"), cached(tmp_path / "full")
    assert goes_on.index.shards == whole.index.shards
    names = sorted(path.name for path in (tmp_path / "full").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "whole").iterdir())


@pytest.mark.slow
def test_a_disk_that_is_full_ends_a_fit_which_goes_on_once_there_is_space(tmp_path):
    folder = tmp_path / "full"
    cached_size = with_small_files(CHECKPOINTS, folder, 2**30)
    assert cached_size == ""
    largest = max(path.stat().st_size for path in folder.glob("checkpoint-*"))
    limited = tmp_path / "limited"
    said = with_small_files(CHECKPOINTS, limited, largest - 1)
    assert "Free some space" in said
    assert not list(limited.glob(".*tmp"))
    begun = any(limited.glob("checkpoint-*"))
    lens, undisturbed = new_lens(), new_lens()
    lens.fit(DATA, checkpoint=limited, resume=begun, **FIT)
    undisturbed.fit(DATA, checkpoint=tmp_path / "undisturbed", **FIT)
    assert_same_bits(lens, undisturbed)


def test_too_little_memory_leaves_the_quantizer_as_it_was_and_the_checkpoint_too(tmp_path):
    original, steps = Training.train_step, []

    def train_step(self: Training, *arguments: Any) -> Any:
        steps.append(1)
        if len(steps) == 8:
            raise torch.OutOfMemoryError("Tried to allocate 20 GB")
        return original(self, *arguments)

    lens = new_lens()
    before = {name: tensor.clone() for name, tensor in lens.quantizer.state_dict().items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Training, "train_step", train_step)
        with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate"):
            lens.fit(DATA, checkpoint=tmp_path / "fit", checkpoint_every=1e-9, **FIT)
    for name, tensor in lens.quantizer.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    lens.fit(DATA, checkpoint=tmp_path / "fit", resume=True, **FIT)
    undisturbed = new_lens()
    undisturbed.fit(DATA, checkpoint=tmp_path / "undisturbed", **FIT)
    assert_same_bits(lens, undisturbed)


def test_a_folder_that_another_process_fills_is_left_to_it(tmp_path, monkeypatch):
    (tmp_path / "store").mkdir()
    monkeypatch.setattr("clvq_lens.data.store.cache.locked", partial(locked, wait_s=0.1))
    with (
        locked(tmp_path / "store" / ".cache.lock", wait_s=0.1),
        pytest.raises(errors.PathError, match=r"Another process .* is writing .* Wait until"),
    ):
        cached(tmp_path / "store")
    assert cached(tmp_path / "store").index.complete


def test_a_folder_with_checkpoints_that_another_fit_writes_is_left_to_it(tmp_path):
    fitted = new_lens(decoder="table")
    fitted.fit(DATA, **FIT)
    for work in (
        lambda: new_lens().fit(DATA, checkpoint=tmp_path, **FIT),
        lambda: fitted.concepts(DATA, checkpoint=tmp_path, progress=False),
        lambda: cl.compare([fitted], list(DATA), checkpoint=tmp_path, progress=False),
    ):
        with (
            locked(tmp_path / ".checkpoint.lock"),
            pytest.raises(errors.PathError, match=r"Another process .* is writing .* pass another"),
        ):
            work()
        assert list(tmp_path.iterdir()) == []
    new_lens().fit(DATA, checkpoint=tmp_path, **FIT)
