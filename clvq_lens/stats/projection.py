"""Projections that remove directions from vectors."""

import torch
from jaxtyping import Float
from torch import Tensor

_SMALL = 1e-6  # relative size of a singular value that counts as zero


def project_out(
    x: Float[Tensor, "*_ d"], basis: Float[Tensor, "*_ d rank"], origin: Float[Tensor, " d"]
) -> Float[Tensor, "*_ d"]:
    """x - Q Q^T (x - m): the vectors without their part in a subspace.

    With m = 0 this is the published removal (arXiv 2506.20040). With m the mean vector, the mean
    stays the same, as in LEACE (arXiv 2306.03819).

    Args:
        x: The vectors.
        basis: Q, with orthonormal columns; one for all vectors, or one for each leading index of
            ``x``.
        origin: m, the point that stays the same.

    Example:
        >>> project_out(torch.tensor([3.0, 4.0]), torch.tensor([[1.0], [0.0]]), torch.zeros(2))
        tensor([0., 4.])
    """
    return x - ((x - origin) @ basis) @ basis.mT


def orthonormal_basis(directions: Float[Tensor, "n d"]) -> Float[Tensor, "d rank"]:
    """Orthonormal columns that span the rows of a matrix; fewer if rows depend on one another."""
    # By singular values and not by QR, which does not tell dependent rows.
    left, singular, _ = torch.linalg.svd(directions.double().T, full_matrices=False)
    return left[:, singular > _SMALL * singular.max()].to(directions.dtype)


def unit_basis(directions: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d 1"]:
    """A basis for each direction by itself: the direction with length 1, or zero if it is zero."""
    length = torch.linalg.vector_norm(directions, dim=-1, keepdim=True)
    return (directions / length.clamp_min(torch.finfo(directions.dtype).tiny)).unsqueeze(-1)
