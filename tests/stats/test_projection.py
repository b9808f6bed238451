import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clvq_lens.stats.projection import orthonormal_basis, project_out, unit_basis

SMALL = st.integers(-3, 3).map(float)


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


@st.composite
def matrices(draw):
    """Rows that may depend on one another."""
    n, rank, d = (draw(st.integers(1, 5)) for _ in range(3))

    def rows(n, d):
        return torch.tensor([[draw(SMALL) for _ in range(d)] for _ in range(n)])

    return rows(n, rank) @ rows(rank, d)


@given(matrices())
def test_a_basis_is_orthonormal_and_spans_the_rows_and_nothing_else(directions):
    basis = orthonormal_basis(directions)
    rank = int(torch.linalg.matrix_rank(directions.double()))
    assert basis.shape == (directions.shape[1], rank)
    assert basis.dtype == directions.dtype
    torch.testing.assert_close(basis.T @ basis, torch.eye(rank), atol=1e-5, rtol=0)
    torch.testing.assert_close(directions @ basis @ basis.T, directions, atol=1e-4, rtol=1e-5)


@given(matrices(), st.floats(1e-6, 1e6))
def test_a_basis_does_not_depend_on_the_size_of_the_rows(directions, scale):
    one, other = orthonormal_basis(directions), orthonormal_basis(directions * scale)
    torch.testing.assert_close(one @ one.T, other @ other.T, atol=1e-4, rtol=0)
