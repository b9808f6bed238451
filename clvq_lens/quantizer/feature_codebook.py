"""FeatureCodebook: codes that are the strongest features of a sparse autoencoder or transcoder."""

from collections.abc import Iterator
from typing import NoReturn

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from clvq_lens.config import CLVQConfig
from clvq_lens.errors import ConfigError
from clvq_lens.quantizer.codebook import Codebook, Nearest

_ACTIVATIONS_PER_CHUNK = 2**24


class FeatureCodebook(Codebook):
    """A codebook of features instead of code vectors: a token's code is its most active feature.

    "Nearest" then means most active, and a distance is an activation with its sign changed. Where a
    code is banned, the next strongest feature takes over. Code vectors still stand for the codes
    where a vector is needed, and lie in the space of the source.

    Args:
        config: Number of codes.
        d: Width of a token's encoder output.
        generator: Random generator for the code vectors that are there at first.
    """

    weights: Float[Tensor, "k d"]
    bias: Float[Tensor, " k"]
    center: Float[Tensor, " d"]

    def __init__(self, config: CLVQConfig, d: int, *, generator: torch.Generator) -> None:
        super().__init__(config, d, generator=generator)
        self.register_buffer("weights", torch.zeros(config.n_codes, d))
        self.register_buffer("bias", torch.zeros(config.n_codes))
        self.register_buffer("center", torch.zeros(d))

    @torch.no_grad()
    def take_features_(
        self,
        weights: Float[Tensor, "k d"],
        bias: Float[Tensor, " k"],
        center: Float[Tensor, " d"],
    ) -> None:
        """Takes over the features, whose activations are weights @ (z - center) + bias."""
        self.weights.copy_(weights)
        self.bias.copy_(bias)
        self.center.copy_(center)

    def activations(self, z: Float[Tensor, "*n d"]) -> Float[Tensor, "*n k"]:
        """How active each feature is, before all but the strongest ones are set to zero."""
        with torch.autocast(z.device.type, enabled=False):
            return F.linear(self._centered(z), self.weights, self.bias)

    def own_activations(self, z: Float[Tensor, "k d"]) -> Float[Tensor, " k"]:
        """How active each feature is in a row of its own.

        Args:
            z: A row for each feature, such as the mean of its tokens.
        """
        return (self._centered(z) * self.weights).sum(1) + self.bias

    def _centered(self, z: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        return z.float() - self.center

    def nearest(self, z: Float[Tensor, "*n d"]) -> Int[Tensor, "*n"]:
        """The most active feature of each encoder output."""
        codes = torch.empty(z.shape[:-1], dtype=torch.long, device=z.device)
        flat = codes.view(-1)
        for rows, activations in self._chunks(z.reshape(-1, z.shape[-1])):
            flat[rows] = activations.argmax(1)
        return codes

    def nearest_and_margin(self, z: Float[Tensor, "n d"]) -> Nearest:
        """The most active feature, its activation with the sign changed, and its lead."""
        best = z.new_empty(len(z), 2, dtype=torch.float32)
        codes = torch.empty(len(z), dtype=torch.long, device=z.device)
        for rows, activations in self._chunks(z):
            codes[rows] = activations.argmax(1)
            strongest = activations.topk(min(2, activations.shape[1]), dim=1).values
            # With one feature only, the second has minus infinity, and the lead is infinite.
            best[rows] = F.pad(strongest, (0, 2 - strongest.shape[1]), value=-torch.inf)
        return Nearest(codes, -best[:, 0], best[:, 0] - best[:, 1])

    def distances(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Activations with the sign changed."""
        return -self.activations(z)

    def initialize_(self, *_: object, **__: object) -> NoReturn:
        """Raises `ConfigError`: features are trained in another way."""
        raise ConfigError(
            "Features cannot be fitted as code vectors are. Remove this baseline, and fit it again "
            "with lens.baseline(kind, data)."
        )

    @torch.no_grad()
    def _chunks(self, z: Tensor) -> Iterator[tuple[slice, Tensor]]:
        n_rows = max(256, _ACTIVATIONS_PER_CHUNK // len(self.weights))
        for start in range(0, len(z), n_rows):
            yield slice(start, start + n_rows), self.activations(z[start : start + n_rows])
