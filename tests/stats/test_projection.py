import pytest
import torch

from clvq_lens.stats.projection import orthonormal_basis, project_out, unit_basis


def test_nothing_is_left_in_the_subspace_and_the_origin_stays():
    generator = torch.Generator().manual_seed(0)
    x, origin = torch.randn(50, 8, generator=generator), torch.randn(8, generator=generator)
    basis = orthonormal_basis(torch.randn(3, 8, generator=generator))
    left = project_out(x, basis, origin)
    torch.testing.assert_close((left - origin) @ basis, torch.zeros(50, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(project_out(origin, basis, origin), origin)
    torch.testing.assert_close(project_out(left, basis, origin), left)


def test_each_row_may_have_a_basis_of_its_own():
    x = torch.eye(3).unsqueeze(1)
    left = project_out(x, unit_basis(2.5 * torch.eye(3)), torch.zeros(3))
    assert torch.equal(left, torch.zeros(3, 1, 3))


@pytest.mark.parametrize(("rows", "rank"), [([[1.0, 0.0], [2.0, 0.0]], 1), ([[1.0, 1.0]], 1)])
def test_dependent_directions_are_one(rows, rank):
    basis = orthonormal_basis(torch.tensor(rows))
    assert basis.shape == (2, rank)
    torch.testing.assert_close(basis.T @ basis, torch.eye(rank))


def test_a_direction_without_length_takes_nothing_out():
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(project_out(x, unit_basis(torch.zeros(5)), torch.zeros(5)), x)
