"""Directions: removing the span of code vectors from the residual stream."""

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from clvq_lens.arguments import check_choice, check_flags
from clvq_lens.errors import CodeRangeError
from clvq_lens.host.context import PassText
from clvq_lens.interventions.positions import At, frozen_positions, resolve_positions
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer

Place = Literal["source", "target"]
_SMALL = 1e-6  # relative size of a singular value that counts as zero


def projection(
    codes: Sequence[int],
    place: Place,
    quantizer: CrossLayerQuantizer,
    *,
    centered: bool,
    positions: At,
) -> Callable[[Tensor, PassText], Tensor]:
    """A function that takes the span of code vectors out of activations.

    Centred: with D the code vectors less their mean, Q an orthonormal basis of their span and m
    the mean activation, x -> x - Q Q^T (x - m); the mean stays where it was, as in LEACE
    (arXiv 2306.03819). Raw: D the code vectors themselves, and x -> x - Q Q^T x, as published
    (arXiv 2506.20040); raw code vectors share a large mean direction, which goes too.

    Args:
        codes: The codes.
        place: "source": code vectors. "target": the mean target of each code.
        quantizer: Fitted.
        centered: Whether to take means off first.
        positions: Where; None: every real token.

    Raises:
        ConfigError: If ``place`` is neither "source" nor "target".
        CodeRangeError: If a code at the target has no tokens, so no mean.
        PositionError: If ``positions`` are none at all.
    """
    check_choice("at", place, get_args(Place))
    check_flags(centered=centered)
    shares = quantizer.usage / quantizer.usage.sum().double()
    rows = torch.tensor(codes, device=quantizer.device)
    unused = rows[quantizer.usage[rows] == 0]
    if place == "target" and len(unused):
        raise CodeRangeError(
            f"Code {int(unused[0])} has no training token, so its mean target is unknown. "
            f"Choose codes with lens.quantizer.usage > 0, or at='source'."
        )
    if place == "source":
        vectors, mean = quantizer.codebook.vectors.double(), quantizer.source_mean
    else:
        vectors, mean = quantizer.mean_target.double(), quantizer.target_mean
    # In double: what rounding leaves of a large common mean would count as a direction.
    directions = vectors[rows] - shares @ vectors if centered else vectors[rows]
    basis = orthonormal_basis(directions).float()
    origin = mean if centered else torch.zeros_like(mean)
    positions = frozen_positions(positions)

    def project(activations: Tensor, text: PassText) -> Tensor:
        x, q = activations.float(), basis.to(activations.device)
        inside = (x - origin.to(x.device)) @ q @ q.T
        where = resolve_positions(positions, text).to(x.device).unsqueeze(-1)
        return torch.where(where, (x - inside).to(activations.dtype), activations)

    return project


def orthonormal_basis(directions: Float[Tensor, "n d"]) -> Float[Tensor, "d rank"]:
    """Columns that span the rows of a matrix; fewer where they depend on one another."""
    left, singular, _ = torch.linalg.svd(directions.double().T, full_matrices=False)
    return left[:, singular > _SMALL * singular.max()].to(directions.dtype)
