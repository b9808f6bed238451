"""Clusterings: what libraries find, as codebooks."""

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import AgglomerativeClustering, KMeans

from clvq_lens.baselines.balanced import balanced_assignment, balanced_k_means, balancing_prices
from clvq_lens.baselines.clusterings import CLUSTERINGS, check_rows, sample_size
from clvq_lens.errors import TooFewTokensError
from clvq_lens.quantizer.codebook import nearest_codes


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(n: int = 600, d: int = 6) -> torch.Tensor:
    return torch.randn(n, d, generator=generator(1)) + 5


def blobs(k: int = 5, n: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    """Clusters that nothing can miss, the farther ones longer."""
    centers = torch.eye(k) * 50 * torch.arange(1, k + 1)
    labels = torch.arange(k).repeat_interleave(n)
    return centers[labels] + torch.randn(k * n, k, generator=generator(2)), labels


@pytest.mark.parametrize("kind", [kind for kind in CLUSTERINGS if kind != "random codes"])
def test_clear_clusters_are_found(kind: str):
    z, labels = blobs()
    clusters = CLUSTERINGS[kind](z, 5, generator())
    codes = nearest_codes(z, clusters.centroids)
    assert len(set(zip(codes.tolist(), labels.tolist(), strict=True))) == 5
    assert clusters.sizes.tolist() == [40] * 5


def test_k_means_gives_the_labels_of_scikit_learn():
    z = rows()
    clusters = CLUSTERINGS["k-means"](z, 12, generator(3))
    seed = int(torch.randint(2**31, (1,), generator=generator(3)))
    theirs = KMeans(12, n_init=1, random_state=seed).fit(z.numpy())
    np.testing.assert_array_equal(nearest_codes(z, clusters.centroids).numpy(), theirs.labels_)
    assert clusters.inertia * len(z) == pytest.approx(theirs.inertia_, rel=1e-4)


def test_agglomerative_codes_are_the_means_of_wards_clusters():
    z = rows(200)
    clusters = CLUSTERINGS["agglomerative"](z, 7, generator())
    labels = torch.from_numpy(AgglomerativeClustering(7).fit_predict(z.numpy()))
    for code in range(7):
        torch.testing.assert_close(clusters.centroids[code], z[labels == code].mean(0))


def test_random_codes_are_rows():
    z = rows()
    clusters = CLUSTERINGS["random codes"](z, 12, generator())
    assert all((z == vector).all(1).any() for vector in clusters.centroids)


@pytest.mark.parametrize(("n", "k"), [(600, 12), (601, 7), (50, 50), (20, 1)])
def test_balanced_clusters_differ_by_one_row_at_most(n: int, k: int):
    skewed = rows(n) ** 3  # k-means itself gives these clusters of very different sizes
    codes = balanced_k_means(skewed.numpy(), k, seed=0)
    sizes = np.bincount(codes, minlength=k)
    assert sizes.max() - sizes.min() <= (n % k > 0)
    assert sizes.sum() == n


def test_balanced_clusters_cost_little_more_than_k_means_and_far_less_than_chance():
    z = rows().numpy()
    codes = balanced_k_means(z, 12, seed=0)
    means = np.stack([z[codes == code].mean(0) for code in range(12)])
    inertia = ((z - means[codes]) ** 2).sum()
    free = KMeans(12, n_init=1, random_state=0).fit(z).inertia_
    everything = ((z - z.mean(0)) ** 2).sum()
    assert free < inertia < free + 0.15 * (everything - free)


def test_a_balanced_assignment_is_nearly_the_best():
    costs = np.random.default_rng(0).random((60, 6))
    codes = balanced_assignment(costs + balancing_prices(costs, np.zeros(6)))
    assert (np.bincount(codes) == 10).all()
    slots = np.repeat(np.arange(6), 10)
    best = costs[:, slots][linear_sum_assignment(costs[:, slots])].sum()
    assert best <= costs[np.arange(60), codes].sum() <= 1.1 * best


def test_rows_that_repeat_each_other_are_too_few():
    z = torch.cat([rows(5)] * 10)
    check_rows(z, 5)
    with pytest.raises(TooFewTokensError, match="Only 5 of the rows differ"):
        check_rows(z, 6)


def test_samples_are_bounded():
    assert sample_size("k-means", 400, 10**9) == 200_000
    assert sample_size("k-means", 400, 5_000) == 5_000
    assert sample_size("balanced k-means", 400, 10**9) == 25_600
    assert sample_size("agglomerative", 400, 10**9) == 10_000
    assert sample_size("agglomerative", 8_000, 10**9) == 16_000
