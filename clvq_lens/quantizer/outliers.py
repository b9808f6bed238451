"""Outliers: activations so long that a few of them would decide every mean."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_TIMES_THE_MEDIAN = 10.0


def norm_limit(sample: Float[Tensor, "n d"]) -> float:
    """The norm beyond which an activation is an outlier: ten times the median of a sample.

    Infinite where most activations are zero, as inside an MLP.
    """
    median = torch.linalg.vector_norm(sample.float(), dim=1).median()
    return _TIMES_THE_MEDIAN * float(median) or torch.inf


def are_longer(activations: Float[Tensor, "*n d"], limit: float | Tensor) -> Bool[Tensor, "*n"]:
    """Which activations have a norm above a limit."""
    norms = torch.linalg.vector_norm(activations.float(), dim=-1)
    return norms > (limit.to(norms.device) if isinstance(limit, Tensor) else limit)
