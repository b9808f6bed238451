"""Commands under torchrun: every process joins the others, and the first one writes the files."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from clvq_lens.errors import ConfigError
from clvq_lens.processes import Processes

_SIZE, _LOCAL_RANK, _RESTARTS = "WORLD_SIZE", "LOCAL_RANK", "TORCHELASTIC_RESTART_COUNT"
_MACHINES = "GROUP_WORLD_SIZE"
_SAME_STORE = "TORCHELASTIC_USE_AGENT_STORE"  # "True": that of torchrun, which outlives processes


def started_together() -> bool:
    """Whether torchrun has started this process with others."""
    return int(os.environ.get(_SIZE, "1")) > 1 and _RESTARTS in os.environ


def were_restarted() -> bool:
    """Whether torchrun has started the processes again, after one of them was lost.

    All of them have to call it. Each machine counts its own restarts.
    """
    return Processes.current().any(int(os.environ.get(_RESTARTS, "0")) > 0)


def device_of_process(device: str | None) -> str | None:
    """The device of this process: a GPU of its own, unless another kind was asked for.

    Args:
        device: What the user asked for; None: whatever there is.

    Raises:
        ConfigError: If a single GPU was named for all processes, or there are too few.
    """
    if not started_together():
        return device
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda:"):
        raise ConfigError(
            f"--device {device} is one GPU for all processes. Pass --device cuda, and each process "
            f"takes one of its own."
        )
    if device != "cuda":
        return device
    rank, n_devices = int(os.environ[_LOCAL_RANK]), torch.cuda.device_count()
    if rank >= n_devices:
        raise ConfigError(
            f"Process {rank} of this machine finds no GPU of its own: there are {n_devices}. Start "
            f"as many processes as there are GPUs, or pass --device cpu."
        )
    return f"cuda:{rank}"


def _warn_of_restarts(rank: int) -> None:
    """Warns if machines that each count their own restarts would meet under different numbers."""
    if rank == 0 and int(os.environ.get(_MACHINES, "1")) > 1:
        logging.getLogger("clvq_lens").warning(
            "After a lost process, those of several machines will not find each other. Set "
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 where torchrun is started."
        )


@contextmanager
def joined() -> Iterator[Processes]:
    """While open, this process works together with those that torchrun has started with it."""
    if not started_together():
        yield Processes()
        return
    if int(os.environ[_LOCAL_RANK]) < torch.cuda.device_count():  # more may share the CPU
        torch.cuda.set_device(int(os.environ[_LOCAL_RANK]))
    store, rank, size = next(rendezvous("env://"))
    if os.environ.get(_SAME_STORE) == "True":
        # The addresses of processes that are gone are still in it, and whoever looks there never
        # meets the others.
        store = PrefixStore(f"clvq_lens-{os.environ[_RESTARTS]}", store)
        _warn_of_restarts(rank)
    # Without a backend: gloo for what is on the CPU, NCCL for what is on GPUs.
    dist.init_process_group(store=store, rank=rank, world_size=size)
    processes = Processes.current()
    if not processes.is_first:  # the first one says it for all
        logging.getLogger("clvq_lens").setLevel(logging.ERROR)
    try:
        yield processes
    except SystemExit as end:  # which is how a command ends, also without an error
        if end.code:
            raise
    # After an error, others may wait for this process, which would wait for them here.
    dist.destroy_process_group()
