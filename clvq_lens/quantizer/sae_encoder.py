"""SAEEncoder: how active the features of a trained SAE or transcoder are in a token."""

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from jaxtyping import Float
from torch import Tensor

Normalization = Literal["none", "layer_norm", "constant_norm_rescale"]
"""What an SAE does to a token before anything else; the names are those of SAELens."""

NORMALIZATIONS: tuple[str, ...] = get_args(Normalization)
_LAYER_NORM_EPSILON = 1e-5


@dataclass(frozen=True, kw_only=True)
class SAEEncoder:
    """How active the features of an SAE are: what stands before the choice of the largest.

    A feature has the preactivation weights @ (normalized token - center) + bias. It is active, by
    as much, where that is above its threshold.

    Attributes:
        weights: A row for each feature.
        bias: Of each feature.
        threshold: Of each feature, 0 or more.
        center: What is taken off every token.
        normalization: How a token is normalized first.
    """

    weights: Float[Tensor, "k d"]
    bias: Float[Tensor, " k"]
    threshold: Float[Tensor, " k"]
    center: Float[Tensor, " d"]
    normalization: Normalization = "none"


class Normalized(NamedTuple):
    """Tokens as an SAE reads them, and how its output comes back to the scale of the token.

    Attributes:
        tokens: The normalized tokens.
        mean: What is added to the output of each token.
        scale: What the output of each token is multiplied by before that.
    """

    tokens: Float[Tensor, "*n d"]
    mean: Float[Tensor, "*n 1"] | float
    scale: Float[Tensor, "*n 1"] | float


def normalized(z: Float[Tensor, "*n d"], normalization: str) -> Normalized:
    """Normalizes each token by itself, as SAELens does.

    Args:
        z: The tokens.
        normalization: How; one of `NORMALIZATIONS`.
    """
    if normalization == "layer_norm":
        mean = z.mean(-1, keepdim=True)
        z = z - mean
        std = z.std(-1, keepdim=True)
        # On the way back SAELens multiplies by the deviation alone, without the epsilon.
        return Normalized(z / (std + _LAYER_NORM_EPSILON), mean, std)
    if normalization == "constant_norm_rescale":
        factor = z.shape[-1] ** 0.5 / z.norm(dim=-1, keepdim=True)
        return Normalized(z * factor, 0.0, 1 / factor)
    return Normalized(z, 0.0, 1.0)
