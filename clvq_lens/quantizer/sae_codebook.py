"""SAECodebook: codes that are the strongest features of a trained SAE or transcoder."""

from typing import NoReturn

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clvq_lens.config import CLVQConfig
from clvq_lens.errors import ConfigError
from clvq_lens.quantizer.feature_codebook import FeatureCodebook
from clvq_lens.quantizer.sae_encoder import NORMALIZATIONS, SAEEncoder, normalized


class SAECodebook(FeatureCodebook):
    """A codebook of features that an SAE has learned elsewhere, all of them or some.

    Attributes:
        features: The number in the SAE of the feature that each code is.
    """

    threshold: Float[Tensor, " k"]
    features: Int[Tensor, " k"]
    normalization: Int[Tensor, ""]

    def __init__(self, config: CLVQConfig, d: int, *, generator: torch.Generator) -> None:
        super().__init__(config, d, generator=generator)
        self.register_buffer("threshold", torch.zeros(config.n_codes))
        self.register_buffer("features", torch.arange(config.n_codes))
        self.register_buffer("normalization", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def take_encoder_(self, encoder: SAEEncoder, features: Int[Tensor, " k"]) -> None:
        """Takes over some features of an SAE.

        Args:
            encoder: Of the SAE, with all its features.
            features: Numbers of the features that become codes, one for each.
        """
        rows = features.to(encoder.weights.device)
        self.take_features_(encoder.weights[rows], encoder.bias[rows], encoder.center)
        self.threshold.copy_(encoder.threshold[rows])
        self.features.copy_(features)
        self.normalization.fill_(NORMALIZATIONS.index(encoder.normalization))

    def activations(self, z: Float[Tensor, "*n d"]) -> Float[Tensor, "*n k"]:
        """How active each feature is; of one that is not active, by how much it fails to be."""
        preactivations = super().activations(z)
        # A feature just below a high threshold must not outrank one that is active, but weakly.
        lacking = preactivations - self.threshold
        return torch.where(lacking > 0, preactivations, lacking)

    def _centered(self, z: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        normalization = NORMALIZATIONS[int(self.normalization)]
        return super()._centered(normalized(z.float(), normalization).tokens)

    def initialize_(self, *_: object, **__: object) -> NoReturn:
        """Raises `ConfigError`: these features are what they are."""
        raise ConfigError(
            "The codes are features of an SAE that was trained elsewhere, and are not fitted. "
            "Take it as it is, or fit a new lens: model.add_clvq(source, target).fit(data)."
        )
