"""Short fits on random tokens, and records to tell without one."""

from pathlib import Path
from typing import Any

import pytest
import torch

import clvq_lens as cl
from clvq_lens.training.callback import FitStart
from clvq_lens.training.checkpoint import Checkpoints
from clvq_lens.training.history import Record
from tests.conftest import random_model

DATA = torch.randint(0, 40, (80, 16), generator=torch.Generator().manual_seed(2))
FIT: dict[str, Any] = {
    **{"n_tokens": 6_000, "batch_tokens": 256, "n_evaluations": 8, "patience": 99},
    **{"progress": False, "seed": 3},
}


def new_lens(**options: Any) -> cl.Lens:
    options = {"n_codes": 12, "top_k": 3, "decoder": "table", "encoder": "residual", **options}
    return random_model().add_clvq(1, 2, **options)


def killed_fit(lens: cl.Lens, folder: Path, after_steps: int, callbacks: list[Any]) -> None:
    """A fit with a checkpoint after every step that dies before it writes one of them."""
    original = Checkpoints.save
    written: list[int] = []

    def save(self: Checkpoints, state: Any) -> None:
        written.append(1)
        if len(written) == after_steps:
            raise RuntimeError("killed")
        original(self, state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "save", save)
        with pytest.raises(RuntimeError, match="killed"):
            lens.fit(DATA, checkpoint=folder, checkpoint_every=1e-9, callbacks=callbacks, **FIT)


def a_start(**changes: Any) -> FitStart:
    values: dict[str, Any] = {
        **{"lens": "1-2", "source": "blocks.1", "target": "blocks.2", "config": {"n_codes": 12}},
        **{"n_tokens": 6_000, **changes},
    }
    return FitStart(**values)


def a_record(step: int, **changes: Any) -> Record:
    values: dict[str, Any] = {
        **{"step": step, "n_tokens": 256 * step, "epoch": 0, "wall_s": 0.5, "learning_rate": 0.01},
        **{"fvu": 0.5, "kl": None, "commitment": 0.25, "held_out_fvu": 0.75, "held_out_kl": None},
        **{"perplexity": 11.0, "n_dead_codes": 0, "n_revived": 0, **changes},
    }
    return Record(**values)
