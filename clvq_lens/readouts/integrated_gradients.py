"""The straight path of integrated gradients (Sundararajan et al. 2017, arXiv 1703.01365)."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from clvq_lens.arguments import check_count
from clvq_lens.errors import ModeError

N_STEPS = 32  # points on a path by default, where their number is not chosen text by text


@dataclass(frozen=True)
class Quadrature:
    """Points on a path from 0 to 1, and what each of them counts for in the mean along the path.

    Attributes:
        points: Where the path is looked at, in rising order.
        weights: One for each point; they add up to 1.
    """

    points: Float[np.ndarray, " n"]
    weights: Float[np.ndarray, " n"]


def gauss_legendre(n_points: int) -> Quadrature:
    """The most exact rule of that many points for polynomials.

    Raises:
        ConfigError: If ``n_points`` is less than 1.
    """
    check_count("n_steps", n_points)
    # The quadrature is for [-1, 1], and the path goes from 0 to 1.
    points, weights = np.polynomial.legendre.leggauss(n_points)
    return Quadrature((points + 1) / 2, weights / 2)


def gradient_of(value: Float[Tensor, ""], activations: Tensor) -> Tensor:
    """The gradient of what a model says with respect to activations in it.

    Raises:
        ModeError: If no gradient reaches the activations.
    """
    # Without allow_unused torch raises an error that does not mention hooks.
    (gradient,) = torch.autograd.grad(value, activations, allow_unused=True)
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

    Integrated gradients are this mean times ``end - start``.

    Args:
        gradient: A function of a point on the path that returns the gradient there.
        start: Where the path begins.
        end: Where the path ends.
        n_steps: Number of points at which the gradient is taken.
        progress: Whether to show a progress bar.

    Raises:
        ConfigError: If ``n_steps`` is less than 1.
    """
    rule = gauss_legendre(n_steps)
    steps = zip(rule.points, rule.weights, strict=True)
    path = end - start
    average = torch.zeros_like(start)
    for point, weight in tqdm(
        steps, desc="integrate", unit="step", total=n_steps, disable=not progress
    ):
        average += weight * gradient(start + point * path)
    return average
