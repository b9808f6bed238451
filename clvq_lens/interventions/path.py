"""The straight path of integrated gradients (Sundararajan et al. 2017, arXiv 1703.01365)."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from clvq_lens.arguments import check_count
from clvq_lens.errors import ModeError


def gradient_of(value: Float[Tensor, ""], at: Tensor) -> Tensor:
    """The gradient of what a model says with respect to activations in it.

    Raises:
        ModeError: If it does not reach them.
    """
    (gradient,) = torch.autograd.grad(value, at, allow_unused=True)
    if gradient is None:
        raise ModeError(
            "What the model says does not depend on these activations by any gradient: a hook "
            "between them may have detached it. Remove such hooks."
        )
    return gradient


def average_gradient(
    gradient: Callable[[Tensor], Tensor],
    start: Float[Tensor, "b pos d"],
    end: Float[Tensor, "b pos d"],
    *,
    n_steps: int,
    progress: bool,
) -> Float[Tensor, "b pos d"]:
    """The mean of a gradient along the straight path, by Gauss-Legendre quadrature.

    Times the length of the path, which is ``end - start``, it is integrated gradients.

    Args:
        gradient: At a point of the path.
        start: Where the path begins.
        end: Where it ends.
        n_steps: Points at which the gradient is taken.
        progress: Whether to show a progress bar.

    Raises:
        ConfigError: If there is no step.
    """
    check_count("n_steps", n_steps)
    points, weights = np.polynomial.legendre.leggauss(n_steps)
    path, average = end - start, torch.zeros_like(start)
    steps = zip((points + 1) / 2, weights / 2, strict=True)
    for point, weight in tqdm(
        steps, desc="integrate", unit="step", total=n_steps, disable=not progress
    ):
        average += weight * gradient(start + point * path)
    return average
