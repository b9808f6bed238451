"""A training step never asks for what the device has computed: it would have to wait for it."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import clvq_lens as cl
from clvq_lens.training.loop import Training
from tests.conftest import random_model

DATA = torch.randint(0, 40, (60, 16), generator=torch.Generator().manual_seed(2))
# What makes the host wait on a GPU: reading numbers, and results whose size depends on numbers.
WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "bincount", "is_nonzero")


class Waits(TorchDispatchMode):
    """Counts the operations for which the host would wait."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = str(func)
        by_mask = name.startswith("aten.index") and any(
            isinstance(index, Tensor) and index.dtype == torch.bool
            for index in (args[1] if isinstance(args[1], list | tuple) else ())
        )
        if by_mask or any(word in name for word in WAITING):
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


def test_waits_are_counted():
    values = torch.arange(4.0)
    with Waits() as waits:
        _ = values[values > 1], float(values.sum()), values.nonzero(), values.sum(), values[[0, 1]]
    assert sum(waits.counts.values()) == 3


@pytest.mark.parametrize("encoder", ["predictive", "residual"])
@pytest.mark.parametrize(
    ("decoder", "kl_weight"),
    [("table", 0.0), ("mlp", 0.0), ("transformer", 0.0), ("mlp", 1.0), ("transformer", 1.0)],
)
def test_no_step_waits(monkeypatch, encoder: str, decoder: str, kl_weight: float):
    original, counts = Training.train_step, []

    def train_step(self: Training, batch: Any) -> Any:
        assert batch.mask_on_cpu is not None
        assert len(batch.real) == batch.n_tokens  # from the mask on the CPU
        with Waits() as waits:
            codes = original(self, batch)
        counts.append(waits.counts)
        return codes

    monkeypatch.setattr(Training, "train_step", train_step)
    lens = random_model().add_clvq(1, 2, n_codes=12, encoder=encoder, decoder=decoder)
    # Codes die so soon that some are revived.
    options: dict[str, Any] = {"n_tokens": 3_000, "batch_tokens": 128, "n_evaluations": 2}
    history: cl.History = lens.fit(DATA, kl_weight=kl_weight, progress=False, **options)
    assert len(counts) > 8
    assert [count for count in counts if count] == []
    assert len(history.records) == 2
