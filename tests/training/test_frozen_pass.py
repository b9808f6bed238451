"""Ctrl-C during the frozen pass keeps what was learned and counted by then."""

import pytest
import torch

from clvq_lens.training import fit as fitting

TOKENS = torch.randint(0, 40, (60, 16), generator=torch.Generator().manual_seed(2))


def interrupted_fit(model, monkeypatch, after: int):
    """A fit whose frozen pass is interrupted after some batches."""
    original, calls = fitting._add_by_code, []

    def interrupt(*arguments):
        original(*arguments)
        calls.append(1)
        if len(calls) == after:
            raise KeyboardInterrupt

    lens = model.add_clvq(1, 2, n_codes=12, top_k=3)
    monkeypatch.setattr(fitting, "_add_by_code", interrupt)
    return lens, lens.fit(TOKENS, n_tokens=3_000, batch_tokens=256, progress=False)


def test_an_interrupted_frozen_pass_keeps_what_it_counted(model, monkeypatch):
    lens, history = interrupted_fit(model, monkeypatch, after=3)
    assert history.stop == "interrupted"
    assert 0 < int(lens.quantizer.usage.sum()) < TOKENS.numel()


def test_a_frozen_pass_interrupted_at_once_leaves_the_quantizer_unfitted(model, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        interrupted_fit(model, monkeypatch, after=1)
    assert not model.clvqs["1-2"].quantizer.fitted
