"""Encoders: from a source activation to the vector that is quantized."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from clvq_lens.config import CLVQConfig
from clvq_lens.errors import ConfigError
from clvq_lens.quantizer.sae_prediction import SAEOptions, SAEPrediction
from clvq_lens.quantizer.units import Units, start_regression_

_INITIAL_MIX_LOGIT = 0.2  # m = 0.275 at the start, as in the authors' code
_HIDDEN_AT_ONCE = 2**24  # numbers in a hidden layer: 64 MB, of which some copies are needed


class AdaptiveResidualEncoder(nn.Module):
    """z = (1 - m) x + m LN(W x + b) with m = sigmoid(a) / 2; W = I and b = 0 at the start.

    The mix m is learned and stays below one half, so z keeps most of x (arXiv 2506.20040).

    Args:
        d: Width of the residual stream.
    """

    def __init__(self, d: int) -> None:
        super().__init__()
        self.mix_logit = nn.Parameter(torch.empty(()))
        self.linear = nn.Linear(d, d)
        self.norm = nn.LayerNorm(d)
        self.reset_()

    @torch.no_grad()
    def reset_(self, generator: torch.Generator | None = None) -> None:
        """Sets all weights back to the start, which is close to the identity; nothing is drawn."""
        self.mix_logit.fill_(_INITIAL_MIX_LOGIT)
        nn.init.eye_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.norm.reset_parameters()

    @torch.no_grad()
    def be_identity_(self) -> None:
        """Turns the learned branch off: z is x, to the last bit."""
        self.reset_()
        self.mix_logit.fill_(-torch.inf)  # the sigmoid of it is an exact zero

    @property
    def mix(self) -> Float[Tensor, ""]:
        """m, the share of the learned branch: in (0, 0.5), or 0 in a baseline."""
        return 0.5 * torch.sigmoid(self.mix_logit)

    def forward(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """The encoder output z."""
        return torch.lerp(x, self.norm(self.linear(x)), self.mix)


class PredictiveEncoder(nn.Module):
    """z = E[target | source], token by token: a linear map and what an MLP adds to it.

    For codes c that depend on the source x alone, and a decoder g of single tokens,
    E||y - g(c)||^2 = E||y - E[y | x]||^2 + E||E[y | x] - g(c)||^2, so that the best codes for a
    target y are those of its prediction.

    Args:
        d_source: Width at the source.
        d_target: Width at the target, and of z.
        n_layers: Hidden layers of the MLP; 0: the linear map alone.
        d_hidden: Their width.
    """

    def __init__(self, d_source: int, d_target: int, *, n_layers: int, d_hidden: int) -> None:
        super().__init__()
        self.source_units, self.target_units = Units(d_source), Units(d_target)
        self.linear = nn.Linear(d_source, d_target)
        self.hidden, self.norms = nn.ModuleList(), nn.ModuleList()
        for layer in range(n_layers):
            self.hidden.append(nn.Linear(d_source if layer == 0 else d_hidden, d_hidden))
            self.norms.append(nn.LayerNorm(d_hidden))  # without it, high rates stall
        self.out = nn.Linear(d_hidden, d_target) if n_layers else None

    @torch.no_grad()
    def reset_(self, generator: torch.Generator) -> None:
        """New weights; before `start_` and training, z is the mean target."""
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        for layer in self.hidden:
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
                nn.init.zeros_(layer.bias)
        for norm in self.norms:
            if isinstance(norm, nn.LayerNorm):
                norm.reset_parameters()
        if self.out is not None:  # so that training starts at the linear map
            nn.init.zeros_(self.out.weight)
            nn.init.zeros_(self.out.bias)

    @torch.no_grad()
    def start_(
        self, source: Float[Tensor, "n d_source"], target: Float[Tensor, "n d_target"]
    ) -> None:
        """Sets units, and the linear map to the ridge regression of target on source."""
        start_regression_(self.linear, (self.source_units, self.target_units), source, target)

    def forward(self, x: Float[Tensor, "*n d_source"]) -> Float[Tensor, "*n d_target"]:
        """The prediction of the target."""
        inputs = self.source_units.strip(x)
        predicted = self.linear(inputs)
        if self.out is not None:
            hidden = inputs
            for layer, norm in zip(self.hidden, self.norms, strict=True):
                hidden = F.gelu(norm(layer(hidden)))
            predicted = predicted + self.out(hidden)
        return self.target_units.restore(predicted)


Encoder = AdaptiveResidualEncoder | PredictiveEncoder | SAEPrediction


def make_encoder(
    config: CLVQConfig, d_source: int, d_target: int, sae: SAEOptions | None = None
) -> Encoder:
    """The encoder that a config names.

    Args:
        config: Options of the quantizer.
        d_source: Width at the source.
        d_target: Width at the target.
        sae: Options of an SAE whose features predict the target, in the place of an MLP.
    """
    if sae is not None:
        if config.encoder != "predictive":
            raise ConfigError(
                f"encoder is {config.encoder!r}, and an SAE predicts the target. Pass "
                f"encoder='predictive'."
            )
        return SAEPrediction(sae, d_source, d_target)
    if config.encoder == "residual":
        return AdaptiveResidualEncoder(d_source)
    d_hidden = config.resolved_d_encoder_mlp(d_source)
    return PredictiveEncoder(d_source, d_target, n_layers=config.encoder_layers, d_hidden=d_hidden)


def sae_options(encoder: nn.Module) -> SAEOptions | None:
    """The options of the SAE in an encoder; None if there is none."""
    return encoder.options if isinstance(encoder, SAEPrediction) else None


def sae_fields(encoder: nn.Module) -> dict[str, Any]:
    """The SAE in an encoder, as files and digests name it; nothing if there is none."""
    options = sae_options(encoder)
    return {} if options is None else {"sae": asdict(options)}


@torch.no_grad()
def encode_by_parts(
    encode: Callable[[Tensor], Tensor], source: Float[Tensor, "n d_source"], *, d_hidden: int
) -> Float[Tensor, "n d_code"]:
    """The encoder outputs of many tokens, in parts whose hidden layers fit in memory.

    Args:
        encode: Gives the encoder outputs of some tokens.
        source: Source activations of all tokens.
        d_hidden: Width of a hidden layer.
    """
    n_rows = max(1, _HIDDEN_AT_ONCE // d_hidden)
    if len(source) <= n_rows:
        return encode(source)
    return torch.cat([encode(part) for part in source.split(n_rows)])
