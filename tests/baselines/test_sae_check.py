"""What an SAE says itself is held against the sum of its strongest features."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from clvq_lens.baselines.sae_check import check_sums
from clvq_lens.baselines.sae_weights import sae_weights
from clvq_lens.errors import UnsupportedSAEError
from clvq_lens.quantizer.sae_prediction import SAEOptions, SAEPrediction
from tests.baselines.saes import (
    N_ACTIVE,
    N_FEATURES,
    REAL,
    STAND_INS,
    D,
    OfModules,
    OfSAELens,
    TopK,
    real_sparsify,
)


def tokens() -> Tensor:
    return 2 * torch.randn(200, D, generator=torch.Generator().manual_seed(3)) + 0.5


def prediction(sae: Any, n_active: int = N_ACTIVE) -> SAEPrediction:
    weights = sae_weights(sae)
    assert weights.output is not None
    options = SAEOptions(
        n_features=N_FEATURES,
        n_active=n_active,
        d_output=D,
        normalization=weights.encoder.normalization,
        restores=weights.restores,
    )
    encoder = SAEPrediction(options, D, D)
    encoder.take_sae_(weights.encoder, weights.output.directions, weights.output.bias)
    return encoder


def check_whole(sae: Any) -> None:
    """With as many features as it can have, the sum is what the SAE gives; fewer are checked."""
    z = tokens()
    for n_active in (1, 3, N_ACTIVE):
        check_sums(sae, prediction(sae, n_active), z)
    most = sae_weights(sae).most_active or N_FEATURES
    encoded = sae.encode(z)
    output = sae.decode(encoded) if isinstance(encoded, Tensor) else sae.decode(*encoded[:2])
    torch.testing.assert_close(prediction(sae, most).summed(z), output, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("build", STAND_INS.values(), ids=STAND_INS.keys())
def test_the_sum_is_what_encode_and_decode_say(build: Callable[[], Any]):
    check_whole(build())


KNOWN = {name: build for name, build in REAL.items() if "groupmax" not in name}


@pytest.mark.parametrize("build", KNOWN.values(), ids=KNOWN.keys())
def test_the_sum_is_what_the_installed_library_says(build: Callable[[], Any]):
    check_whole(build())


def test_how_many_features_a_top_k_sae_keeps_is_known():
    assert sae_weights(OfSAELens("topk")).most_active == N_ACTIVE
    assert sae_weights(TopK()).most_active == N_ACTIVE
    assert sae_weights(STAND_INS["sparsify"]()).most_active == N_ACTIVE
    for kind in ("SAELens", "SAELens, jumprelu", "BatchTopKSAE", "AutoEncoder"):
        assert sae_weights(STAND_INS[kind]()).most_active is None


class OneStronger(OfModules):
    """Gives the first feature where its weights say that it is not active."""

    def encode(self, x: Tensor) -> Tensor:
        activations = super().encode(x)
        return torch.cat([activations[:, :1] + 9, activations[:, 1:]], dim=1)


class WithoutItsBias(OfModules):
    def decode(self, activations: Tensor) -> Tensor:
        return self.decoder(activations)


def test_features_that_encode_contradicts_are_refused():
    sae = OneStronger()
    with pytest.raises(UnsupportedSAEError, match=r"OneStronger.encode has other active features"):
        check_sums(sae, prediction(sae), tokens())


def test_a_sum_that_decode_contradicts_is_refused():
    sae = WithoutItsBias()
    sae.bias.data.mul_(20)
    with pytest.raises(UnsupportedSAEError, match=r"WithoutItsBias.decode gives something else"):
        check_sums(sae, prediction(sae), tokens())


def test_features_that_are_strongest_in_groups_are_refused():
    sae = real_sparsify(activation="groupmax")
    with pytest.raises(UnsupportedSAEError, match=r"activation='topk'"):
        check_sums(sae, prediction(sae), tokens())


def test_half_precision_is_no_contradiction():
    sae = OfModules().bfloat16()
    check_sums(sae, prediction(sae, 8), tokens())
