"""What a checkpoint of a fit costs, beside the time between two of them."""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig

from benchmarks.timing import Row, device
from clvq_lens.training.checkpoint import EVERY_S, Checkpoints

_N_ROWS, _CONTEXT, _N_TOKENS = 400, 128, 12_288
_SHAPES = ((64, 512, "table"), (768, 512, "transformer"))
_UNLIMITED = 1e-9  # seconds between two checkpoints: one after every step


def run() -> list[Row]:
    """The time of a checkpoint, at the end of a step, of fits at some widths."""
    table: list[Row] = []
    for width, d_vocab, decoder in _SHAPES:
        with tempfile.TemporaryDirectory() as folder:
            seconds, n_bytes = _checkpoints(width, d_vocab, decoder, Path(folder))
        name, median_s = f"width {width}, 400 codes, {decoder}", statistics.median(seconds)
        share = median_s / EVERY_S
        written = f"a checkpoint of {n_bytes / 1e6:,.0f} MB"
        table.append(Row(name, "time between two", EVERY_S, 1.0))
        table.append(Row(name, written, median_s, share, f"{share:.3%} of that time"))
    return table


def _checkpoints(width: int, d_vocab: int, decoder: str, folder: Path) -> tuple[list[float], int]:
    """Seconds of every checkpoint of a fit that writes one after each step, and their size."""
    cfg = HookedTransformerConfig(
        n_layers=2,
        d_model=width,
        n_ctx=_CONTEXT,
        d_head=width // 4,
        n_heads=4,
        d_mlp=width,
        d_vocab=d_vocab,
        act_fn="gelu_new",
        seed=0,
        device=str(device()),
    )
    model: Any = HookedTransformer(cfg)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(d_vocab, (_N_ROWS, _CONTEXT), generator=generator)
    seconds: list[float] = []
    after_step = Checkpoints.after_step

    def timed(*args: Any, **kwargs: Any) -> None:
        started = time.perf_counter()
        after_step(*args, **kwargs)
        seconds.append(time.perf_counter() - started)

    Checkpoints.after_step = timed
    try:
        model.add_clvq(0, 1, n_codes=400, decoder=decoder).fit(
            tokens,
            n_tokens=_N_TOKENS,
            checkpoint=folder,
            checkpoint_every=_UNLIMITED,
            progress=False,
        )
    finally:
        Checkpoints.after_step = after_step
    return seconds, max(path.stat().st_size for path in folder.glob("*.safetensors"))
