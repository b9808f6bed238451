import numpy as np
import pytest
from sklearn.decomposition import PCA

from clvq_lens.plots.principal_components import N_COMPONENTS, principal_components


def test_points_and_shares_are_those_of_the_largest_components():
    vectors = np.random.default_rng(0).normal(size=(40, 6)) * np.array([5, 3, 2, 1, 0.5, 0.1])
    found = principal_components(vectors)
    pca = PCA(N_COMPONENTS)
    np.testing.assert_allclose(np.abs(found.points), np.abs(pca.fit_transform(vectors)), atol=1e-8)
    np.testing.assert_allclose(found.shares, pca.explained_variance_ratio_)


@pytest.mark.parametrize(("shape", "n_varying"), [((2, 5), 1), ((9, 1), 1), ((9, 2), 2)])
def test_components_that_there_are_not_are_zero(shape, n_varying):
    found = principal_components(np.random.default_rng(1).normal(size=shape))
    assert found.points.shape == (shape[0], N_COMPONENTS)
    assert found.shares.sum() == pytest.approx(1)
    assert np.abs(found.points[:, n_varying:]).max() < 1e-12
    assert found.shares[n_varying:] == pytest.approx(0)


@pytest.mark.parametrize("vectors", [np.zeros((0, 4)), np.ones((1, 4)), np.ones((5, 4))])
def test_what_does_not_vary_stands_at_zero(vectors):
    found = principal_components(vectors)
    assert not found.points.any()
    assert not found.shares.any()
