"""Predictions from the strongest features of an SAE, against a computation by hand."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from clvq_lens.config import CLVQConfig
from clvq_lens.errors import ConfigError
from clvq_lens.quantizer import sae_prediction
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from clvq_lens.quantizer.encoders import make_encoder
from clvq_lens.quantizer.sae_encoder import SAEEncoder
from clvq_lens.quantizer.sae_prediction import SAEOptions, SAEPrediction

SIZES = {"n_features": 12, "n_active": 3, "d_output": 4}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def tiny(d_target: int = 6, **options: Any) -> SAEPrediction:
    """An encoder with random features of width 5, and thresholds that some of them miss."""
    options = {**SIZES, **options}
    encoder = SAEPrediction(SAEOptions(**options), 5, d_target)
    n, d_output = options["n_features"], options["d_output"]
    features = SAEEncoder(
        weights=random(n, 5, seed=1),
        bias=random(n, seed=2),
        threshold=2 * random(n, seed=3).abs(),
        center=random(5, seed=4),
        normalization=options.get("normalization", "none"),
    )
    encoder.take_sae_(features, random(n, d_output, seed=5), random(d_output, seed=6))
    encoder.reset_()
    return encoder


def by_hand(encoder: SAEPrediction, x: Tensor) -> Tensor:
    """The sum of a token's strongest active features, one token and one feature at a time."""
    rows = []
    for token in x:
        active = []
        for feature in range(len(encoder.weights)):
            strength = (token - encoder.center) @ encoder.weights[feature] + encoder.bias[feature]
            if strength > encoder.threshold[feature]:
                active.append((float(strength), feature))
        total = encoder.output_bias.clone()
        for strength, feature in sorted(active, reverse=True)[: encoder.options.n_active]:
            total += strength * encoder.directions[feature]
        rows.append(total)
    return torch.stack(rows)


def ridge_by_hand(inputs: Tensor, outputs: Tensor) -> Tensor:
    """The ridge regression of outputs on inputs, evaluated at the inputs."""
    x, y = inputs.double(), outputs.double()
    x, y = x - x.mean(0), y - y.mean(0)
    gram = x.T @ x
    ridge = 1e-3 * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.double)
    return (x @ torch.linalg.solve(gram + ridge, x.T @ y) + outputs.double().mean(0)).float()


def test_the_sum_is_that_of_the_strongest_active_features():
    encoder, x = tiny(), random(50, 5, seed=7)
    torch.testing.assert_close(encoder.summed(x), by_hand(encoder, x))
    n_active = (encoder.strongest(x).values > 0).sum(1)
    assert n_active.min() < 3  # some tokens have fewer than that
    assert n_active.max() == 3


def test_the_prediction_is_a_ridge_regression_of_the_target_on_that_sum():
    encoder, x, y = tiny(), random(200, 5, seed=7), 3 * random(200, 6, seed=8) + 5
    y[:, :4] += 2 * by_hand(encoder, x)
    encoder.start_(x, y)
    expected = ridge_by_hand(by_hand(encoder, x), y)
    torch.testing.assert_close(encoder(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(5,), (0, 5), (2, 7, 5)])
def test_shapes_stay_whatever_they_are(shape: tuple[int, ...]):
    encoder, x = tiny(), random(*shape)
    assert encoder(x).shape == (*shape[:-1], 6)


def test_parts_are_put_together_in_their_order(monkeypatch: pytest.MonkeyPatch):
    encoder, x = tiny(), random(600, 5)
    whole = encoder.summed(x)
    monkeypatch.setattr(sae_prediction, "_ACTIVATIONS_AT_ONCE", 1)
    torch.testing.assert_close(encoder.summed(x), whole)


@pytest.mark.parametrize("normalization", ["layer_norm", "constant_norm_rescale"])
def test_a_normalization_is_undone_if_the_decoder_does_so(normalization: Any):
    x = 4 * random(30, 5, seed=7) + 1
    if normalization == "layer_norm":
        mean, scale = x.mean(1, keepdim=True), x.std(1, keepdim=True)
    else:
        mean, scale = torch.zeros(30, 1), x.norm(dim=1, keepdim=True) / 5**0.5
    kept = tiny(normalization=normalization)
    output = by_hand(kept, (x - mean) / scale)
    torch.testing.assert_close(kept.summed(x), output, rtol=1e-3, atol=1e-3)
    undone = tiny(normalization=normalization, restores=True)
    torch.testing.assert_close(undone.summed(x), output * scale + mean, rtol=1e-3, atol=1e-3)


def test_reset_forgets_the_regression_and_not_the_features():
    encoder, x = tiny(), random(50, 5)
    sums = encoder.summed(x)
    encoder.start_(x, random(50, 6, seed=1))
    assert encoder(x).std(0).min() > 0.01
    encoder.reset_()
    assert torch.equal(encoder(x), encoder.target_units.mean.expand(50, -1))
    assert torch.equal(encoder.summed(x), sums)


def test_in_a_nested_dictionary_more_features_never_say_less_of_the_token():
    """Axes as features: the sum of the k strongest is the token without its smaller entries."""
    x = random(400, 6, seed=2).abs()
    errors = []
    for n_active in range(1, 7):
        encoder = SAEPrediction(SAEOptions(n_features=6, n_active=n_active, d_output=6), 6, 6)
        axes, zeros = torch.eye(6), torch.zeros(6)
        features = SAEEncoder(weights=axes, bias=zeros, threshold=zeros, center=zeros)
        encoder.take_sae_(features, axes, zeros)
        encoder.start_(x, x)
        own = (x - encoder.summed(x)).square().sum()
        errors.append((x - encoder(x)).square().sum().item())
        assert errors[-1] < own + 1e-3 * x.square().sum()  # the regression can only help
    assert all(more < less for less, more in pairwise(errors))
    assert errors[-1] < 1e-4 * x.square().sum()


def test_an_encoder_of_features_takes_the_place_of_a_predictive_one():
    options = SAEOptions(**SIZES)
    config = CLVQConfig(n_codes=4, decoder="table")
    quantizer = CrossLayerQuantizer(config, 5, 6, sae=options)
    assert isinstance(quantizer.encoder, SAEPrediction)
    assert quantizer.codebook.vectors.shape == (4, 6)
    with pytest.raises(ConfigError, match=r"encoder is 'residual', and an SAE predicts the target"):
        make_encoder(config.replace(encoder="residual"), 5, 6, options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_active": 13}, r"n_active is 13, and the SAE has 12 features. Pass at most that"),
        ({"n_active": 0}, r"n_active is 0; pass a whole number above 0"),
        ({"d_output": True}, r"d_output is True; pass a whole number"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        SAEOptions(**{**SIZES, **options})
