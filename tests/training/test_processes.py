"""Several processes that share a fit do what one process does."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

import clvq_lens as cl
from clvq_lens import errors
from clvq_lens.data.activations import Activations
from clvq_lens.data.stream import ShuffledStream
from clvq_lens.processes import Processes
from clvq_lens.training.prediction import _BestWeights
from tests.conftest import random_model
from tests.together import run_together
from tests.training.test_checkpoint import new_lens

GENERATOR = torch.Generator().manual_seed(5)
LENGTHS = torch.randint(3, 17, (300,), generator=GENERATOR)
DATA = torch.where(
    torch.arange(16) < LENGTHS.unsqueeze(1),
    torch.randint(1, 40, (300, 16), generator=GENERATOR),
    0,
)
MASK = torch.arange(16) < LENGTHS.unsqueeze(1)
CORPUS = {"input_ids": DATA, "attention_mask": MASK.long()}
FIT: dict[str, Any] = {
    "n_tokens": 26_000,  # 200 steps and more
    "batch_tokens": 128,
    "n_evaluations": 6,
    "progress": False,
    "patience": 99,
}


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> cl.ActivationStore:
    folder = tmp_path_factory.mktemp("store")
    return cl.cache_activations(
        random_model(), CORPUS, folder, points=[1, 2], shard_bytes=2**16, progress=False
    )


def fit_and_save(folder: Path, out: Path, options: dict[str, Any], fit: dict[str, Any]) -> None:
    lens = new_lens(**options)
    lens.fit(cl.ActivationStore(folder), **FIT | fit)
    lens.save(out / str(Processes.current().rank))


def quantizers_of(n: int, store: cl.ActivationStore, out: Path, *options: Any) -> list[Any]:
    """The quantizer of each of some processes that fitted together."""
    run_together(n, fit_and_save, out, store.folder, out, *options)
    return [cl.load(out / str(rank)) for rank in range(n)]


def assert_same_codes(one: Any, other: Any, store: cl.ActivationStore) -> None:
    """On at least 99.9 % of tokens."""
    sequences = store.sequences(0, *store.points)
    x = sequences.source[sequences.mask].float()
    same = one.assign(x.unsqueeze(0)) == other.assign(x.unsqueeze(0))
    assert same.float().mean() >= 0.999


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize(
    "options",
    [
        {"encoder": "predictive", "decoder": "transformer"},
        {"encoder": "residual", "decoder": "table"},
    ],
    ids=str,
)
def test_processes_fit_what_one_process_fits(tmp_path, store, options: dict[str, Any], n: int):
    fit_and_save(store.folder, tmp_path / "one", options, {})
    one = cl.load(tmp_path / "one" / "0")
    together = quantizers_of(n, store, tmp_path / "together", options, {})
    for other in together:
        assert_same_codes(one, other, store)
        for name, tensor in one.state_dict().items():
            theirs = other.state_dict()[name]
            assert torch.equal(theirs, together[0].state_dict()[name]), name
            torch.testing.assert_close(theirs, tensor, rtol=1e-3, atol=1e-4, msg=name)


def test_a_step_in_parts_is_the_same_step(tmp_path, store):
    options = {"encoder": "residual", "decoder": "transformer"}
    whole, in_parts = tmp_path / "whole", tmp_path / "parts"
    fit_and_save(store.folder, whole, options, {})
    fit_and_save(store.folder, in_parts, options, {"accumulation_steps": 3})
    one, other = cl.load(whole / "0"), cl.load(in_parts / "0")
    assert_same_codes(one, other, store)
    for name, tensor in one.state_dict().items():
        theirs = other.state_dict()[name]
        torch.testing.assert_close(theirs, tensor, rtol=1e-3, atol=1e-4, msg=name)


def test_more_parts_than_rows_are_the_same_step(tmp_path, store):
    """Some processes have no row of some batches, and none of the held-out ones."""
    options: dict[str, Any] = {"encoder": "predictive", "decoder": "transformer"}
    fit = {"n_tokens": 3_000, "batch_tokens": 16, "patience": 2, "n_evaluations": 20}
    fit_and_save(store.folder, tmp_path / "one", options, fit)
    one = cl.load(tmp_path / "one" / "0")
    together = quantizers_of(
        3, store, tmp_path / "together", options, fit | {"accumulation_steps": 4}
    )
    for other in together:
        assert_same_codes(one, other, store)
        for name, tensor in one.state_dict().items():
            theirs = other.state_dict()[name]
            assert torch.equal(theirs, together[0].state_dict()[name]), name
            torch.testing.assert_close(theirs, tensor, rtol=1e-3, atol=1e-4, msg=name)


def test_processes_share_the_kl_in_the_model(tmp_path, store):
    options: dict[str, Any] = {"encoder": "residual", "decoder": "transformer"}
    fit = {"n_tokens": 8_000, "kl_weight": 0.5}
    fit_and_save(store.folder, tmp_path / "one", options, fit)
    one = cl.load(tmp_path / "one" / "0")
    for other in quantizers_of(2, store, tmp_path / "together", options, fit):
        assert_same_codes(one, other, store)
        for name, tensor in one.state_dict().items():
            torch.testing.assert_close(
                other.state_dict()[name], tensor, rtol=1e-3, atol=1e-4, msg=name
            )


def judge(out: Path) -> None:
    """One held-out batch for two processes: weights that predict worse are kept by none."""
    encoder = random_model().add_clvq(1, 2, n_codes=4, encoder="predictive").quantizer.encoder
    batch = Activations(
        *(torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)),
        torch.zeros(1, 5, dtype=torch.long),
        *(torch.ones(1, 5, dtype=torch.bool) for _ in range(2)),
    )
    best = _BestWeights(encoder, [batch], Processes.current())
    encoder.linear.weight.data += 100
    best.offer()
    (out / str(Processes.current().rank)).write_text(str(best.n_since))


def test_a_process_without_held_out_tokens_judges_as_the_others_do(tmp_path):
    run_together(2, judge, tmp_path / "meeting", tmp_path)
    assert [(tmp_path / str(rank)).read_text() for rank in (0, 1)] == ["1", "1"]


def press_in_one(folder: Path, out: Path, checkpoint: Path) -> None:
    """Ctrl-C in the second process alone, while it waits for a batch."""
    original, steps = ShuffledStream._as_share, []

    def as_share(self: Any, *args: Any) -> Any:
        steps.append(1)
        if len(steps) == 120 and Processes.current().rank == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, *args)

    lens = new_lens(encoder="residual", decoder="table")
    # Where the tests run in the background, it would be ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ShuffledStream, "_as_share", as_share)
        history = lens.fit(cl.ActivationStore(folder), checkpoint=checkpoint, **FIT)
    assert history.stop == "interrupted"
    assert len(steps) == 120
    history = lens.fit(cl.ActivationStore(folder), checkpoint=checkpoint, resume=True, **FIT)
    assert history.stop == "finished"
    lens.save(out / str(Processes.current().rank))


def test_ctrl_c_in_one_process_ends_a_step_of_all(tmp_path, store):
    options = {"encoder": "residual", "decoder": "table"}
    undisturbed = quantizers_of(2, store, tmp_path / "undisturbed", options, {})
    run_together(2, press_in_one, tmp_path / "out", store.folder, tmp_path / "out", tmp_path / "c")
    for rank in (0, 1):
        found = cl.load(tmp_path / "out" / str(rank)).state_dict()
        for name, tensor in undisturbed[0].state_dict().items():
            assert torch.equal(found[name], tensor), name


def cache(folder: Path) -> None:
    cl.cache_activations(
        random_model(), CORPUS, folder, points=[1, 2], shard_bytes=2**16, progress=False
    )


def test_processes_fill_one_store_together(tmp_path, store):
    folder = tmp_path / "together"
    run_together(2, cache, tmp_path / "meeting", folder)
    together = cl.ActivationStore(folder)
    assert together.index.complete
    assert together.index.shards == store.index.shards
    assert len(together.index.shards) > 2


def fit_in_vain(folder: Path, of_one_document: Path) -> None:
    lens, rank = new_lens(), Processes.current().rank
    store = cl.ActivationStore(folder)
    with pytest.raises(errors.ConfigError, match=r"through a folder. Pass checkpoint=folder"):
        lens.fit(CORPUS, **FIT)
    with pytest.raises(errors.ProcessesError, match=r"The fit differs .* with the same command"):
        lens.fit(store, **FIT, seed=rank)
    with pytest.raises(errors.DataError, match=r"2 processes cannot share 1 .* Start fewer"):
        lens.fit(cl.ActivationStore(of_one_document), **FIT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clvq_lens.training.fit.version", lambda name: f"0.{rank}")
        with pytest.raises(
            errors.ProcessesError, match=r"in process 1 from .* Install one version"
        ):
            lens.fit(store, **FIT)


def test_processes_that_cannot_work_together_say_so(tmp_path, store):
    cl.cache_activations(random_model(), DATA[:1], tmp_path / "1", points=[1, 2], progress=False)
    run_together(2, fit_in_vain, tmp_path / "meeting", store.folder, tmp_path / "1")
