"""SAEPrediction: what the strongest features of a trained SAE say of the target."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from clvq_lens.arguments import check_choice, check_flags, check_positive
from clvq_lens.errors import ConfigError
from clvq_lens.quantizer.sae_encoder import (
    NORMALIZATIONS,
    Normalization,
    Normalized,
    SAEEncoder,
    normalized,
)
from clvq_lens.quantizer.units import Units, start_regression_

_ACTIVATIONS_AT_ONCE = 2**24  # of all features, before the strongest are chosen: 64 MB


@dataclass(frozen=True, kw_only=True)
class SAEOptions:
    """The SAE in an encoder that predicts the target from its strongest features.

    Attributes:
        n_features: How many features it has.
        n_active: How many of them stand for a token, at most: the strongest of those that are
            active.
        d_output: Width of what its decoder gives.
        normalization: What it does to a token before anything else.
        restores: Whether its decoder undoes that in the end.
    """

    n_features: int
    n_active: int
    d_output: int
    normalization: Normalization = "none"
    restores: bool = False

    def __post_init__(self) -> None:
        for name in ("n_features", "n_active", "d_output"):
            check_positive(name, getattr(self, name), whole=True)
        check_choice("normalization", self.normalization, NORMALIZATIONS)
        check_flags(restores=self.restores)
        if self.n_active > self.n_features:
            raise ConfigError(
                f"n_active is {self.n_active}, and the SAE has {self.n_features} features. Pass "
                f"at most that."
            )


class Strongest(NamedTuple):
    """The strongest active features of tokens, strongest first.

    Attributes:
        values: How active they are; 0 where fewer are active.
        features: Which ones.
    """

    values: Float[Tensor, "*n active"]
    features: Int[Tensor, "*n active"]


class SAEPrediction(nn.Module):
    """z = ridge regression of the target on the sum of a token's strongest features.

    The sum is that of the SAE's own decoder: its bias, and a direction times each activation. The
    regression brings it to the target, which may be another layer, and for a transcoder another
    place, than the SAE writes to.

    Args:
        options: What the SAE is like.
        d_source: Width of what it reads.
        d_target: Width at the target, and of z.
    """

    weights: Float[Tensor, "f d_source"]
    bias: Float[Tensor, " f"]
    threshold: Float[Tensor, " f"]
    center: Float[Tensor, " d_source"]
    directions: Float[Tensor, "f d_output"]
    output_bias: Float[Tensor, " d_output"]

    def __init__(self, options: SAEOptions, d_source: int, d_target: int) -> None:
        super().__init__()
        self.options = options
        self.register_buffer("weights", torch.zeros(options.n_features, d_source))
        self.register_buffer("bias", torch.zeros(options.n_features))
        self.register_buffer("threshold", torch.zeros(options.n_features))
        self.register_buffer("center", torch.zeros(d_source))
        self.register_buffer("directions", torch.zeros(options.n_features, options.d_output))
        self.register_buffer("output_bias", torch.zeros(options.d_output))
        self.sum_units, self.target_units = Units(options.d_output), Units(d_target)
        self.linear = nn.Linear(options.d_output, d_target)

    @torch.no_grad()
    def take_sae_(
        self,
        encoder: SAEEncoder,
        directions: Float[Tensor, "f d_output"],
        bias: Float[Tensor, " d_output"],
    ) -> None:
        """Takes over the weights of an SAE.

        Args:
            encoder: Its encoder, normalized as the options say.
            directions: What each feature adds to the output where its activation is 1.
            bias: The output where no feature is active.
        """
        self.weights.copy_(encoder.weights)
        self.bias.copy_(encoder.bias)
        self.threshold.copy_(encoder.threshold)
        self.center.copy_(encoder.center)
        self.directions.copy_(directions)
        self.output_bias.copy_(bias)

    @torch.no_grad()
    def reset_(self, generator: torch.Generator | None = None) -> None:
        """Forgets the regression; the SAE stays what it is, and nothing is drawn."""
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    @torch.no_grad()
    def start_(
        self, source: Float[Tensor, "n d_source"], target: Float[Tensor, "n d_target"]
    ) -> None:
        """Sets units, and the linear map to the ridge regression of target on the sums."""
        units = self.sum_units, self.target_units
        start_regression_(self.linear, units, self.summed(source), target)

    def forward(self, x: Float[Tensor, "*n d_source"]) -> Float[Tensor, "*n d_target"]:
        """What the strongest features say of the target."""
        inputs = self.sum_units.strip(self.summed(x))
        return self.target_units.restore(self.linear(inputs))

    def summed(self, x: Float[Tensor, "*n d_source"]) -> Float[Tensor, "*n d_output"]:
        """The output of the SAE, of the strongest features alone."""
        # By parts: an SAE has so many features that their activations fill the memory first.
        n_rows = max(256, _ACTIVATIONS_AT_ONCE // self.options.n_features)
        outputs = []
        for part in x.reshape(-1, x.shape[-1]).split(n_rows):
            read = normalized(part, self.options.normalization)
            outputs.append(self.decode(self._strongest(read), read))
        return torch.cat(outputs).reshape(*x.shape[:-1], self.options.d_output)

    def strongest(self, x: Float[Tensor, "n d_source"]) -> Strongest:
        """The strongest active features of each token."""
        return self._strongest(normalized(x, self.options.normalization))

    def _strongest(self, read: Normalized) -> Strongest:
        preactivations = F.linear(read.tokens - self.center, self.weights, self.bias)
        is_active = preactivations > self.threshold
        activations = torch.where(is_active, preactivations, 0.0)
        return Strongest(*activations.topk(self.options.n_active, dim=-1))

    def decode(self, strongest: Strongest, read: Normalized) -> Float[Tensor, "n d_output"]:
        """The output of the SAE's decoder for some features.

        Args:
            strongest: The features and how active they are.
            read: The tokens that they were found in, of which the normalization may be undone.
        """
        output = self.output_bias + F.embedding_bag(
            strongest.features,
            self.directions,
            per_sample_weights=strongest.values,
            mode="sum",
        )
        return output * read.scale + read.mean if self.options.restores else output
