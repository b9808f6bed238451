import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clvq_lens.stats.divergence import kl_divergence


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(st.integers(0, 10_000), st.integers(2, 30))
@settings(max_examples=25, deadline=None)
def test_kl_divergence_is_that_of_torch_distributions(seed: int, d_vocab: int):
    one, other = torch.randn(2, 3, 4, d_vocab, generator=seeded(seed)) * 5
    expected = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=one), torch.distributions.Categorical(logits=other)
    )
    torch.testing.assert_close(kl_divergence(one, other), expected, rtol=1e-4, atol=1e-5)
    assert (kl_divergence(one, one) == 0).all()


def test_kl_divergence_is_from_the_clean_distribution_in_nats():
    clean = torch.tensor([[0.5, 0.5]]).log()
    edited = torch.tensor([[0.9, 0.1]]).log()
    expected = 0.5 * torch.tensor(0.5 / 0.9).log() + 0.5 * torch.tensor(0.5 / 0.1).log()
    torch.testing.assert_close(kl_divergence(clean, edited), expected.view(1))
    assert not torch.allclose(kl_divergence(clean, edited), kl_divergence(edited, clean))


def test_kl_divergence_is_computed_in_float32():
    one, other = torch.randn(2, 5, 11, generator=seeded()).bfloat16()
    assert kl_divergence(one, other).dtype == torch.float32
