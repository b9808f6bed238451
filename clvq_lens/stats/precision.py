"""Double precision on devices that have none."""

import torch
from torch import Tensor


def best_float(device: torch.device) -> torch.dtype:
    """The most precise float type of a device."""
    return torch.float32 if device.type == "mps" else torch.float64


def in_double(values: Tensor) -> Tensor:
    """Values in double precision, moved to the CPU if their device has none."""
    return values.cpu().double() if values.device.type == "mps" else values.double()
