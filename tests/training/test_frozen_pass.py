"""Ctrl-C during the frozen pass keeps what was learned and counted by then."""

import pytest
import torch

from clvq_lens.data.activations import Activations
from clvq_lens.training.frozen import FrozenPass

TOKENS = torch.randint(0, 40, (60, 16), generator=torch.Generator().manual_seed(2))


@pytest.fixture
def counted(monkeypatch):
    """The source activations of the batches that frozen passes have counted."""
    batches, original = [], FrozenPass.add

    def add(self, batch):
        batches.append(batch.source[batch.mask])
        original(self, batch)

    monkeypatch.setattr(FrozenPass, "add", add)
    return batches


def fit_interrupted(model, monkeypatch, ctrl_c, *, at: int, presses: int = 1):
    """A fit in whose frozen pass Ctrl-C is pressed in the middle of a batch."""
    original, calls = FrozenPass.add, []

    def add(self, batch):
        def press(end):
            calls.append(end)
            if len(calls) == at:
                for _ in range(presses):
                    ctrl_c()
            return Activations.of_real_tokens(batch, end)

        object.__setattr__(batch, "of_real_tokens", press)
        original(self, batch)

    lens = model.add_clvq(1, 2, n_codes=12, top_k=3)
    monkeypatch.setattr(FrozenPass, "add", add)
    return lens, lens.fit(TOKENS, n_tokens=3_000, batch_tokens=256, progress=False)


@pytest.mark.parametrize("at", [1, 3])  # after the sum of sources, before the counts
def test_an_interrupted_frozen_pass_keeps_what_it_counted(model, monkeypatch, ctrl_c, counted, at):
    lens, history = fit_interrupted(model, monkeypatch, ctrl_c, at=at)
    assert history.stop == "interrupted"
    source = torch.cat(counted)
    assert int(lens.quantizer.usage.sum()) == len(source) < TOKENS.numel() - 100
    torch.testing.assert_close(lens.quantizer.source_mean, source.mean(0))


def test_ctrl_c_pressed_twice_ends_it_at_once_and_restores_the_quantizer(
    model, monkeypatch, ctrl_c
):
    with pytest.raises(KeyboardInterrupt):
        fit_interrupted(model, monkeypatch, ctrl_c, at=3, presses=2)
    assert not model.clvqs["1-2"].quantizer.fitted
