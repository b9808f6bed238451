"""Runs a function in several processes that work together, as under torchrun, on the CPU."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_together(n: int, work: Callable[..., None], folder: Path, *arguments: Any) -> None:
    """Calls ``work(*arguments)`` in as many new processes; raises if one of them fails.

    Args:
        n: How many processes.
        work: A function of a module.
        folder: An empty folder where they find each other.
        *arguments: What it is called with.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mp.spawn(_worker, (n, work, folder, arguments), nprocs=n)


def _worker(
    rank: int, n: int, work: Callable[..., None], folder: Path, arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/met", rank=rank, world_size=n)
    try:
        work(*arguments)
    finally:
        dist.destroy_process_group()
