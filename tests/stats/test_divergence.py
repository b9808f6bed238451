import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clvq_lens.stats.divergence import kl_divergence, mean_kl_by_parts
from tests.largest_output import LargestOutput


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


# ---- by parts ------------------------------------------------------------------------------------


D, D_VOCAB = 6, 50


def vectors() -> tuple[torch.Tensor, torch.Tensor, torch.nn.Linear]:
    """Clean and edited vectors, and what gives their logits."""
    unembedding = torch.nn.Linear(D, D_VOCAB)
    with torch.no_grad():
        unembedding.weight.normal_(generator=seeded(1))
    clean, edited = torch.randn(2, 20, D, generator=seeded(2))
    return clean, edited.requires_grad_(), unembedding


@pytest.mark.parametrize("rows_at_once", [1, 7, 20, 1_000])
def test_the_kl_by_parts_and_its_gradient_are_those_of_all_rows(rows_at_once: int):
    clean, edited, unembedding = vectors()
    whole = kl_divergence(unembedding(clean), unembedding(edited)).mean()
    (expected,) = torch.autograd.grad(3 * whole, edited)
    found = mean_kl_by_parts(clean, edited, unembedding, rows_at_once=rows_at_once)
    (3 * found).backward(inputs=[edited])
    torch.testing.assert_close(found, whole)
    torch.testing.assert_close(edited.grad, expected)
    assert expected.abs().max() > 0.01
    assert unembedding.weight.grad is None


def test_without_gradients_the_kl_by_parts_builds_no_graph():
    clean, edited, unembedding = vectors()
    with torch.no_grad():
        found = mean_kl_by_parts(clean, edited, unembedding, rows_at_once=3)
    assert not found.requires_grad
    assert not mean_kl_by_parts(clean, clean, unembedding, rows_at_once=3).requires_grad
    assert mean_kl_by_parts(clean, clean, unembedding, rows_at_once=3) == 0


def test_the_gradient_of_the_kl_by_parts_has_the_dtype_of_the_vectors():
    clean, edited, unembedding = vectors()
    edited = edited.detach().bfloat16().requires_grad_()
    mean_kl_by_parts(clean.bfloat16(), edited, unembedding.bfloat16(), rows_at_once=3).backward()
    assert edited.grad is not None
    assert edited.grad.dtype == torch.bfloat16


def test_no_tensor_holds_the_logits_of_more_rows_than_are_asked_for():
    clean, edited, unembedding = vectors()
    with LargestOutput(D_VOCAB) as largest:
        mean_kl_by_parts(clean, edited, unembedding, rows_at_once=7).backward()
    assert largest.n_rows == 7  # more than the rows of the weights, which are as wide
    with LargestOutput(D_VOCAB) as largest:
        kl_divergence(unembedding(clean), unembedding(edited)).mean().backward()
    assert largest.n_rows == 20  # so it would have been noticed
