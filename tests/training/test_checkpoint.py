"""A fit that is killed goes on from its last checkpoint, and ends with the same bits."""

from pathlib import Path
from typing import Any

import pytest
import torch

import clvq_lens as cl
from clvq_lens.training.checkpoint import Checkpoints
from tests.conftest import random_model

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


def killed_after(n_checkpoints: int, lens: cl.Lens, data: Any, folder: Path, **fit: Any) -> None:
    """A fit that writes a checkpoint after every step, and dies after some of them."""
    original = Checkpoints.save
    written: list[int] = []

    def save(self: Checkpoints, state: Any) -> None:
        original(self, state)
        written.append(1)
        if len(written) == n_checkpoints:
            raise RuntimeError("killed")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "save", save)
        with pytest.raises(RuntimeError, match="killed"):
            lens.fit(data, checkpoint=folder, checkpoint_every=1e-9, **fit)


@pytest.mark.parametrize("n_checkpoints", [1, 4, 20, 25, 44])
@pytest.mark.parametrize(
    "options",
    [
        {"encoder": "predictive", "decoder": "transformer", "decoder_dropout": 0.1},
        {"encoder": "predictive", "decoder": "table"},
    ],
)
def test_a_fit_that_is_killed_ends_with_the_same_bits(tmp_path, options, n_checkpoints: int):
    undisturbed = new_lens(**options)
    undisturbed.fit(DATA, checkpoint=tmp_path / "undisturbed", **FIT)
    lens = new_lens(**options)
    killed_after(n_checkpoints, lens, DATA, tmp_path / "killed", **FIT)
    assert not lens.quantizer.fitted  # what it was before
    lens = new_lens(**options)
    history = lens.fit(DATA, checkpoint=tmp_path / "killed", resume=True, **FIT)
    assert_same_bits(lens, undisturbed)
    assert history.records[-1].n_tokens >= 6_000
