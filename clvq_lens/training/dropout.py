"""The global generators that dropout draws from: seeded for a fit, and kept in its checkpoints."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from clvq_lens.training.checkpoint import State


@contextmanager
def seeded_dropout(device: torch.device, seed: int) -> Iterator[None]:
    """While open, the global generator of a device is seeded; afterwards it is as before.

    Dropout takes no generator and draws from the global one. `torch.manual_seed` would seed all
    devices, and no other one is touched here.
    """
    with torch.random.fork_rng(devices=[]):  # no device listed: the generator of the CPU
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.random.fork_rng(devices=[device]), torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
                yield
        elif device.type == "mps":
            before = torch.mps.get_rng_state()
            torch.mps.manual_seed(seed)
            try:
                yield
            finally:
                torch.mps.set_rng_state(before)
        else:
            yield


def dropout_state(device: torch.device) -> State:
    """The state of the generators that dropout draws from, for a checkpoint."""
    state: State = {"cpu": torch.default_generator.get_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def restore_dropout_(device: torch.device, state: State) -> None:
    """Puts the generators back, as a checkpoint kept them."""
    torch.default_generator.set_state(state["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
    elif device.type == "mps":
        torch.mps.set_rng_state(state["mps"])
