"""Activations of one layer from each host, as fast as a bare pass, and how much memory that takes.

The model has the shape of GPT-2 small but for its width, which leaves attention patterns the
largest thing by far: a bridge keeps those of every layer, unless it is told to let them go.
"""

import multiprocessing
import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from benchmarks.timing import Row, device, interleaved, rows
from clvq_lens.host.host import Host

BATCH, POSITIONS, LAYER = 4, 1024, 8
SHAPE = {"n_layer": 12, "n_head": 12, "n_embd": 192, "n_positions": 1024, "vocab_size": 1000}
POINT = f"blocks.{LAYER}.hook_resid_post"


def hugging_face() -> Any:
    """The model as transformers builds it."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(**SHAPE, attn_implementation="eager")  # as a bridge computes attention
    return GPT2LMHeadModel(config).eval().to(device())


def bridge() -> Any:
    """The same model in a bridge."""
    from clvq_lens.host.loading import from_hf

    return from_hf(hugging_face())


def hooked() -> Any:
    """A HookedTransformer of the same shape."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    warnings.simplefilter("ignore", DeprecationWarning)
    cfg = HookedTransformerConfig(
        n_layers=SHAPE["n_layer"],
        n_heads=SHAPE["n_head"],
        d_model=SHAPE["n_embd"],
        d_head=SHAPE["n_embd"] // SHAPE["n_head"],
        d_mlp=4 * SHAPE["n_embd"],
        n_ctx=SHAPE["n_positions"],
        d_vocab=SHAPE["vocab_size"],
        act_fn="gelu_new",
        seed=0,
        device=str(device()),
    )
    return HookedTransformer(cfg).eval()


def _tokens() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(1000, (BATCH, POSITIONS), generator=generator).to(device())


def _ours(model: Any) -> Callable[[], object]:
    host, tokens = Host(model), _tokens()
    attended = torch.ones_like(tokens, dtype=torch.bool)
    return lambda: host.activations(tokens, attended, [POINT])


def _theirs(model: Any) -> Callable[[], object]:
    tokens, stop = _tokens(), LAYER + 1
    return lambda: model.run_with_cache(tokens, names_filter=[POINT], stop_at_layer=stop)


def _bare() -> Callable[[], object]:
    """The lower blocks alone, as transformers runs them."""
    model, tokens = hugging_face().transformer, _tokens()
    model.h = model.h[: LAYER + 1]
    return lambda: model(tokens, use_cache=False)


# Each of them builds its model first, so that building is not timed.
CONTESTANTS: dict[str, Callable[[], Callable[[], object]]] = {
    "bare blocks of Hugging Face": _bare,
    "bridge, run_with_cache": lambda: _theirs(bridge()),
    "bridge, ours": lambda: _ours(bridge()),
    "HookedTransformer, run_with_cache": lambda: _theirs(hooked()),
    "HookedTransformer, ours": lambda: _ours(hooked()),
}


@torch.no_grad()
def _send_peak(name: str, pipe: Connection) -> None:
    contestant = CONTESTANTS[name]()
    before = _high_water_mib()
    contestant()
    pipe.send(_high_water_mib() - before)


def _high_water_mib() -> float:
    """The most memory that this process has had at once (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024


def peak_mib(name: str) -> float:
    """What one pass adds to the largest memory of a fresh process."""
    ours, theirs = multiprocessing.Pipe()
    # Spawned, not forked: a fork begins with the largest memory of this process.
    process = multiprocessing.get_context("spawn").Process(target=_send_peak, args=(name, theirs))
    process.start()
    peak = ours.recv()
    process.join()
    return peak


@torch.no_grad()
def run(repetitions: int = 3) -> list[Row]:
    """Time and memory of each way to read one layer."""
    contestants = {name: make() for name, make in CONTESTANTS.items()}
    medians = interleaved(contestants, repetitions=repetitions)
    title = f"{BATCH * POSITIONS:,} tokens to block {LAYER} of {SHAPE['n_layer']}"
    table = []
    for row in rows(title, medians, "bare blocks of Hugging Face"):
        table.append(replace(row, note=f"peak + {peak_mib(row.contestant):,.0f} MiB"))
    return table
