import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from clvq_lens.quantizer import encoders
from clvq_lens.quantizer.encoders import (
    AdaptiveResidualEncoder,
    PredictiveEncoder,
    encode_by_parts,
)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_the_encoder_starts_close_to_the_identity():
    x = 5 * random(3, 4, 6) + 2
    m = 0.5 * torch.sigmoid(torch.tensor(0.2))
    expected = (1 - m) * x + m * F.layer_norm(x, (6,))
    torch.testing.assert_close(AdaptiveResidualEncoder(6)(x), expected)


def test_the_encoder_follows_its_formula_with_other_weights():
    encoder, x = AdaptiveResidualEncoder(6), random(5, 6)
    with torch.no_grad():
        for seed, parameter in enumerate(encoder.parameters()):
            parameter.copy_(random(*parameter.shape, seed=seed + 10))
    m = 0.5 / (1 + torch.exp(-encoder.mix_logit))
    branch = F.layer_norm(x @ encoder.linear.weight.T + encoder.linear.bias, (6,))
    branch = branch * encoder.norm.weight + encoder.norm.bias
    torch.testing.assert_close(encoder(x), (1 - m) * x + m * branch)


@pytest.mark.parametrize("logit", [-10.0, 0.0, 0.2, 10.0])
def test_the_mix_stays_between_zero_and_one_half(logit: float):
    encoder = AdaptiveResidualEncoder(4)
    with torch.no_grad():
        encoder.mix_logit.fill_(logit)
    assert 0 < encoder.mix.item() < 0.5


def test_the_gradient_reaches_the_mix_and_every_weight():
    encoder = AdaptiveResidualEncoder(4)
    encoder(random(7, 4)).square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_reset_goes_back_to_the_start():
    encoder, x = AdaptiveResidualEncoder(4), random(7, 4)
    start = encoder(x)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(1)
    assert not torch.equal(encoder(x), start)
    encoder.reset_()
    assert torch.equal(encoder(x), start)


# ---- the predictive encoder ----------------------------------------------------------------------


def predictive(d_source: int = 5, d_target: int = 3, n_layers: int = 2) -> PredictiveEncoder:
    encoder = PredictiveEncoder(d_source, d_target, n_layers=n_layers, d_hidden=7)
    encoder.reset_(torch.Generator().manual_seed(0))
    return encoder


@pytest.mark.parametrize("n_layers", [0, 1, 2])
def test_it_starts_at_the_ridge_regression_of_the_target_on_the_source(n_layers: int):
    x = 4 * random(400, 5) + 30
    y = x @ random(5, 3, seed=1) - 7 + 0.1 * random(400, 3, seed=2)
    encoder = predictive(n_layers=n_layers)
    encoder.start_(x, y)
    design = torch.cat([x, torch.ones(400, 1)], dim=1).double()
    expected = (design @ torch.linalg.lstsq(design, y.double()).solution).float()
    torch.testing.assert_close(encoder(x), expected, atol=0.1, rtol=0)  # of 20 that y spreads over
    assert (encoder(x) - y).square().mean() < 0.02


def test_before_it_is_started_it_says_the_mean_target():
    encoder = predictive()
    encoder.target_units.measure_(random(50, 3) + 9)
    assert torch.equal(encoder(random(4, 5)), encoder.target_units.mean.expand(4, 3))


def test_the_same_generator_gives_the_same_weights():
    one, other = predictive().state_dict(), predictive().state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert one["hidden.0.weight"].abs().sum() > 0


def test_new_weights_undo_what_training_did():
    encoder = predictive()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(1)
    encoder.reset_(torch.Generator().manual_seed(0))
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_every_hidden_layer_has_a_part_in_the_prediction():
    encoder, x = predictive(), random(6, 5)
    with torch.no_grad():
        encoder.out.weight.copy_(random(3, 7))
    before = encoder(x)
    for layer in encoder.hidden:
        kept = layer.weight.clone()
        with torch.no_grad():
            layer.weight.add_(random(*layer.weight.shape, seed=1))
        assert not torch.allclose(encoder(x), before)
        with torch.no_grad():
            layer.weight.copy_(kept)
    assert torch.equal(encoder(x), before)


@pytest.mark.parametrize("rows_at_once", [1, 7, 20, 100])
def test_encoder_outputs_by_parts_are_those_of_all_tokens(monkeypatch, rows_at_once: int):
    encoder = PredictiveEncoder(6, 4, n_layers=2, d_hidden=10)
    source, sizes = random(20, 6), []

    def encode(part: torch.Tensor) -> torch.Tensor:
        sizes.append(len(part))
        return encoder(part)

    monkeypatch.setattr(encoders, "_HIDDEN_AT_ONCE", rows_at_once * 10 + 9)
    found = encode_by_parts(encode, source, d_hidden=10)
    torch.testing.assert_close(found, encoder(source).detach())
    assert max(sizes) == min(rows_at_once, 20)
    assert not found.requires_grad
