import pytest
import torch
from torch import nn

from clvq_lens.quantizer import units
from clvq_lens.quantizer.units import least_squares_
from tests.largest_output import LargestOutput


def sample() -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs with a mean, and outputs that depend on them, with noise."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(200, 5, generator=generator) + 3
    outputs = inputs @ torch.randn(5, 7, generator=generator) + 10
    return inputs, outputs + torch.randn(outputs.shape, generator=generator)


def fitted(inputs: torch.Tensor, outputs: torch.Tensor) -> nn.Linear:
    linear = nn.Linear(5, 7)
    least_squares_(linear, inputs, outputs)
    return linear


def test_the_linear_map_is_the_ridge_regression_of_the_outputs():
    inputs, outputs = sample()
    linear = fitted(inputs, outputs)
    x, y = (inputs - inputs.mean(0)).double(), (outputs - outputs.mean(0)).double()
    ridge = 1e-3 * (x.T @ x).diagonal().mean() * torch.eye(5)
    expected = torch.linalg.solve(x.T @ x + ridge, x.T @ y).T.float()
    torch.testing.assert_close(linear.weight, expected)
    torch.testing.assert_close(linear(inputs.mean(0)), outputs.mean(0))


@pytest.mark.parametrize("rows_at_once", [1, 33, 200])
def test_few_rows_at_a_time_give_the_same_map(monkeypatch, rows_at_once):
    whole = fitted(*sample())
    monkeypatch.setattr(units, "_IN_DOUBLE", rows_at_once * (5 + 7))
    with LargestOutput(7, dtype=torch.double) as largest:
        by_parts = fitted(*sample())
    assert largest.n_rows == max(rows_at_once, 5)  # the map itself has five
    torch.testing.assert_close(by_parts.weight, whole.weight)
    torch.testing.assert_close(by_parts.bias, whole.bias)
