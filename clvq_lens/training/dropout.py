"""Dropout draws from the generator of a device, which a fit borrows and gives back."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def borrowed_generators(device: torch.device) -> Iterator[None]:
    """While open, the global generators may be seeded; afterwards they are as before.

    Args:
        device: Device whose generator dropout draws from, beside that of the CPU.
    """
    with torch.random.fork_rng(devices=[]):  # no device listed: the generator of the CPU
        if device.type == "cuda":
            with torch.random.fork_rng(devices=[device]):
                yield
        elif device.type == "mps":
            before = torch.mps.get_rng_state()
            try:
                yield
            finally:
                torch.mps.set_rng_state(before)
        else:
            yield


def seed_dropout_(device: torch.device, *numbers: int) -> None:
    """Seeds the global generators of a device and of the CPU.

    `torch.manual_seed` would seed all devices, and no other one is touched here.

    Args:
        device: Where dropout is computed.
        *numbers: What the seed is made of: the same numbers give the same dropout.
    """
    seed = int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
