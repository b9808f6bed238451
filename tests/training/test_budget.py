"""How much a fit reads by default, who follows it, and what it leaves behind."""

from typing import Any

import pytest
import torch

import clvq_lens as cl
from clvq_lens.config import MOST_TOKENS, PASSES, FitConfig
from clvq_lens.training.training_data import TrainingData
from tests.conftest import random_model

DATA = torch.randint(0, 40, (60, 16), generator=torch.Generator().manual_seed(2))
OPTIONS: dict[str, Any] = {"batch_tokens": 256, "held_out_fraction": 0.1, "progress": False}


def new_lens(model: Any = None, **options: Any) -> cl.Lens:
    options = {"n_codes": 12, "top_k": 3, "decoder": "mlp", **options}
    return (model or random_model()).add_clvq(1, 2, **options)


def test_by_default_the_data_are_read_sixteen_times_but_no_more_than_two_million_tokens():
    assert FitConfig().tokens_for(33_000) == 16 * 33_000 == PASSES * 33_000
    assert FitConfig().tokens_for(10**9) == MOST_TOKENS == 2_000_000
    assert FitConfig(n_tokens=77).tokens_for(10**9) == 77
    lens = new_lens()
    history = lens.fit(DATA, patience=100, **OPTIONS)
    assert history.n_tokens == 16 * 54 * 16  # 54 documents are trained on
    assert history.records[-1].n_tokens >= history.n_tokens
    assert lens.quantizer.fit_config.n_tokens == history.n_tokens


def test_a_fit_whose_improvements_are_tiny_stops_early():
    """A table is as good as it gets at once."""
    lens = new_lens(decoder="table")
    history = lens.fit(DATA, n_tokens=60_000, n_evaluations=40, **OPTIONS)
    assert history.stop == "early"
    assert history.records[-1].n_tokens < 30_000


def test_baselines_and_further_fits_have_the_budget_of_the_lens(monkeypatch):
    lens = new_lens()
    lens.fit(DATA, n_tokens=3_000, seed=5, **OPTIONS)
    baseline = lens.baseline("k-means", DATA, progress=False)
    assert baseline.quantizer.fit_config == lens.quantizer.fit_config
    told = lens.baseline("k-means", DATA, progress=False, n_tokens=500)
    assert told.quantizer.fit_config.n_tokens == 500
    assert int(told.quantizer.usage.sum()) < int(baseline.quantizer.usage.sum())
    with cl.refits(lens, DATA, seeds=1, progress=False) as (other,):
        assert other.quantizer.fit_config == lens.quantizer.fit_config.replace(seed=6)


def test_after_a_fit_nothing_requires_gradients_and_none_stay_allocated():
    model = random_model().requires_grad_(False)
    lens = new_lens(model, decoder="transformer")
    for seed in range(2):  # a second fit learns, too
        before = lens.quantizer.encoder.linear.weight.clone()
        lens.fit(DATA, n_tokens=2_000, kl_weight=0.5, seed=seed, **OPTIONS)
        assert not torch.equal(before, lens.quantizer.encoder.linear.weight)
        assert not any(p.requires_grad for p in lens.quantizer.parameters())
        assert all(p.grad is None for p in lens.quantizer.parameters())
    with lens.edit(cl.Ablate(3)):
        assert not model(DATA[:2]).requires_grad


def test_an_interrupted_or_failed_fit_leaves_no_gradients_either(monkeypatch):
    from clvq_lens.training.loop import Training

    original, steps = Training.train_step, []

    def train_step(self: Training, *args: Any) -> Any:
        steps.append(1)
        if len(steps) == 3:
            raise RuntimeError("broken")
        return original(self, *args)

    monkeypatch.setattr(Training, "train_step", train_step)
    lens = new_lens()
    with pytest.raises(RuntimeError, match="broken"):
        lens.fit(DATA, n_tokens=2_000, **OPTIONS)
    assert not any(p.requires_grad or p.grad is not None for p in lens.quantizer.parameters())


def test_ctrl_c_in_the_middle_of_a_step_is_heard_after_it(monkeypatch, ctrl_c):
    from clvq_lens.quantizer.codebook import Codebook

    original, sizes = Codebook.update_, []

    def update_(self: Codebook, *args: Any, **options: Any) -> None:
        if len(sizes) == 3:
            ctrl_c()  # the decoder has made its step, the codebook has not
        original(self, *args, **options)
        sizes.append(float(self.ema_sizes.sum()))

    monkeypatch.setattr(Codebook, "update_", update_)
    lens = new_lens()
    history = lens.fit(DATA, n_tokens=3_000, n_evaluations=1, **OPTIONS)
    assert history.stop == "interrupted"
    assert len(sizes) == 4
    assert float(lens.quantizer.codebook.ema_sizes.sum()) == sizes[-1]


def test_no_device_is_seeded_but_that_of_the_quantizer(monkeypatch):
    def refuse(*_: Any) -> None:
        raise AssertionError("this seeds every device")

    lens = new_lens(decoder="transformer", decoder_dropout=0.2)  # TransformerLens seeds them all
    monkeypatch.setattr(torch, "manual_seed", refuse)
    monkeypatch.setattr(torch.random, "manual_seed", refuse)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", refuse)
    lens.fit(DATA, n_tokens=1_000, **OPTIONS)
    assert lens.quantizer.fitted


def test_the_buffer_keeps_the_dtype_of_the_model():
    lens = new_lens(random_model(dtype=torch.bfloat16))
    data = TrainingData(lens.attachment, DATA, FitConfig(), progress=False)
    stream = data.open(whole_sequences=True)
    assert stream._buffer.parts[0].source.dtype == torch.bfloat16
    batch = next(iter(stream))
    assert batch.source.dtype == batch.target.dtype == torch.float32


@pytest.mark.parametrize("progress", [True, False])
def test_bars_tell_how_long_a_fit_takes(capsys, progress: bool):
    new_lens().fit(DATA, **{**OPTIONS, "progress": progress})
    shown = capsys.readouterr().err
    for bar in ("activations", "fit", "frozen pass"):
        assert (f"{bar}:" in shown) == progress
    assert ("/13824" in shown.replace(",", "").replace("13.8k", "13824")) == progress
