"""Runs functions in processes of their own: alone, or together as under torchrun, on the CPU.

A new process imports torch, TransformerLens and this library for many seconds. So one of them does
that once, a server that is told nothing else, and all others are forked from it.
"""

from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

_SERVER = mp.get_context("forkserver")
# `tests.conftest` decides whether shapes are checked, so it comes before what may be checked.
_SERVER.set_forkserver_preload(["tests.conftest", "clvq_lens.lens", "clvq_lens.add"])


def run_together(n: int, work: Callable[..., None], folder: Path, *arguments: Any) -> None:
    """Calls ``work(*arguments)`` in as many new processes; raises if one of them fails.

    Args:
        n: How many processes.
        work: A function of a module.
        folder: An empty folder where they find each other.
        *arguments: What it is called with.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mp.start_processes(_worker, (n, work, folder, arguments), nprocs=n, start_method="forkserver")


def started(work: Callable[..., None], *arguments: Any) -> BaseProcess:
    """A new process that calls ``work(*arguments)``; whoever started it waits for it, or kills it.

    Args:
        work: A function of a module.
        *arguments: What it is called with.
    """
    process = _SERVER.Process(target=_alone, args=(work, arguments))
    process.start()
    return process


def run_apart(work: Callable[..., None], *arguments: Any) -> None:
    """Calls ``work(*arguments)`` in a new process; raises if it fails."""
    process = started(work, *arguments)
    process.join()
    assert process.exitcode == 0, f"{work.__name__} ended with {process.exitcode}"


def _alone(work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    work(*arguments)


def _worker(
    rank: int, n: int, work: Callable[..., None], folder: Path, arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/met", rank=rank, world_size=n)
    try:
        work(*arguments)
    finally:
        dist.destroy_process_group()
