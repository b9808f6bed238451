"""Double precision on devices that have none."""

import torch
from torch import Tensor


def best_float(device: torch.device) -> torch.dtype:
    """The float type with the most digits that a device computes with."""
    return torch.float32 if device.type == "mps" else torch.float64


def in_double(values: Tensor) -> Tensor:
    """Values in double precision: where they are, or on the CPU if their device has none."""
    return values.cpu().double() if values.device.type == "mps" else values.double()
