"""Directions: removing the span of code vectors from the residual stream."""

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from clvq_lens.arguments import check_choice, check_flags
from clvq_lens.errors import CodeRangeError
from clvq_lens.host.context import PassText
from clvq_lens.interventions.positions import EditPositions, frozen_positions, resolve_positions
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from clvq_lens.stats.projection import orthonormal_basis, project_out

Place = Literal["source", "target"]


def projection(
    codes: Sequence[int],
    place: Place,
    quantizer: CrossLayerQuantizer,
    *,
    centered: bool,
    at: EditPositions,
) -> Callable[[Tensor, PassText], Tensor]:
    """A function that takes the span of code vectors out of activations.

    Centered: with D the code vectors less their mean, Q an orthonormal basis of their span and m
    the mean activation, x -> x - Q Q^T (x - m); the mean stays where it was, as in LEACE
    (arXiv 2306.03819). Raw: D the code vectors themselves, and x -> x - Q Q^T x, as published
    (arXiv 2506.20040); raw code vectors share a large mean direction, which goes too.

    Args:
        codes: The codes.
        place: "source": where codes are there: the vectors of residual codes, the mean sources of
            predictive ones. "target": the mean target of each code.
        quantizer: A fitted quantizer.
        centered: Whether to take means off first.
        at: Positions; None: every real token.

    Raises:
        ConfigError: If ``place`` is neither "source" nor "target".
        CodeRangeError: If a code has no tokens, so no mean.
        PositionError: If ``at`` does not name positions.
    """
    check_choice("place", place, get_args(Place))
    check_flags(centered=centered)
    basis, origin = _subspace(codes, place, quantizer, centered=centered)
    positions = frozen_positions(at)

    def project(activations: Tensor, text: PassText) -> Tensor:
        # In float32 also for half precision, where subtracting leaves much of the direction behind.
        x, q = activations.float(), basis.to(activations.device)
        left = project_out(x, q, origin.to(x.device))
        where = resolve_positions(positions, text).to(x.device).unsqueeze(-1)
        return torch.where(where, left.to(activations.dtype), activations)

    return project


def _subspace(
    codes: Sequence[int], place: Place, quantizer: CrossLayerQuantizer, *, centered: bool
) -> tuple[Float[Tensor, "d rank"], Float[Tensor, " d"]]:
    """An orthonormal basis of what is taken out, and the point that stays where it is."""
    shares = quantizer.usage / quantizer.usage.sum().double()
    rows = torch.tensor(codes, device=quantizer.device)
    unused = rows[quantizer.usage[rows] == 0]
    if len(unused) and (place == "target" or quantizer.config.encoder == "predictive"):
        raise CodeRangeError(
            f"Code {int(unused[0])} has no training token, so its mean {place} is unknown. "
            f"Choose codes with lens.quantizer.usage > 0."
        )
    if place == "source":
        vectors, mean = quantizer.source_vectors.double(), quantizer.source_mean
    else:
        vectors, mean = quantizer.mean_target.double(), quantizer.target_mean
    # In double: what rounding leaves of a large common mean would count as a direction.
    # Code vectors are centered on their own mean, which is not the mean activation.
    directions = vectors[rows] - shares @ vectors if centered else vectors[rows]
    origin = mean if centered else torch.zeros_like(mean)
    return orthonormal_basis(directions).float(), origin
