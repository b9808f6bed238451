import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from clvq_lens.quantizer.encoder import AdaptiveResidualEncoder


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
