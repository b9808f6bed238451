from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from torch import Tensor
from torch.nn.functional import normalize

from clvq_lens.errors import TooFewTokensError
from clvq_lens.quantizer import kmeans


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Thousands of tiny tensors: threads would only wait for each other."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blobs(n_blobs: int, n_each: int, d: int, *, seed: int = 0, noise: float = 0.05) -> Tensor:
    g = generator(seed)
    centers = 5 * torch.randn(n_blobs, d, generator=g)
    z = centers.repeat_interleave(n_each, 0)
    z += noise * torch.randn(z.shape, generator=g)
    return z[torch.randperm(len(z), generator=g)]


def cluster(
    rows: Tensor, n_codes: int, *, spherical: bool = False, seed: int = 0
) -> kmeans.KMeansResult:
    return kmeans.cluster(
        rows, n_codes, spherical=spherical, n_iterations=25, generator=generator(seed)
    )


def test_nearest_agrees_with_cdist() -> None:
    rows, centroids = torch.randn(700, 9, generator=generator()), torch.randn(33, 9)
    expected = torch.cdist(rows, centroids).square()
    codes, distances = kmeans.nearest(rows, centroids)
    assert torch.equal(codes, expected.argmin(1))
    torch.testing.assert_close(distances, expected.amin(1), rtol=1e-4, atol=1e-4)


def test_nearest_takes_the_first_of_equals() -> None:
    assert kmeans.nearest(torch.ones(2, 3), torch.zeros(4, 3))[0].tolist() == [0, 0]


def test_seeds_differ_and_are_as_many_as_asked_for() -> None:
    seeds = kmeans.draw_seeds(torch.randn(500, 6, generator=generator()), 90, generator=generator())
    assert len(seeds.unique()) == len(seeds) == 90


def test_seeding_ends_when_no_more_rows_differ() -> None:
    rows = torch.randn(7, 5, generator=generator()).repeat(40, 1)
    seeds = kmeans.draw_seeds(rows, 20, generator=generator())
    assert len(rows[seeds].unique(dim=0)) == len(seeds) == 7


def test_blocks_draw_seeds_from_the_distribution_of_plain_kmeans_plus_plus() -> None:
    rows = torch.tensor([[0.0], [1.0], [2.5], [4.5]])
    d2 = (rows - rows.T).square().double()
    expected = np.zeros((4, 4))  # p(third seed is j | first is i), summed over the second
    for first in range(4):
        for second in range(4):
            left = torch.minimum(d2[first], d2[second])
            p = d2[first, second] / d2[first].sum()
            expected[first] += (p * left / left.sum()).numpy() if p > 0 else 0
    counts, g, n_draws = np.zeros((4, 4)), generator(), 1000
    for _ in range(n_draws):
        first, _, third = kmeans.draw_seeds(rows, 3, generator=g).tolist()
        counts[first, third] += 1
    expected *= counts.sum(1, keepdims=True)
    possible = expected > 0
    chi_square = ((counts - expected) ** 2)[possible] / expected[possible]
    assert counts[~possible].sum() == 0
    assert chi_square.sum() < 21.7  # 8 degrees of freedom: exceeded once in 180 such tests


def test_merging_joins_the_pair_that_costs_least() -> None:
    rows = torch.tensor([[0.0], [1.0], [10.0], [11.5], [30.0]])
    clusters = kmeans._MovingClusters(rows, torch.arange(5), spherical=False)
    clusters.merge_(4)
    assert clusters.codes[0] == clusters.codes[1]
    assert len(clusters.codes.unique()) == 4
    clusters.merge_(2)
    assert sorted(clusters.centroids.flatten().tolist()) == [5.625, 30.0]
    assert sorted(clusters.sizes.tolist()) == [1.0, 4.0]


def test_a_sweep_keeps_sums_and_sizes_those_of_the_codes() -> None:
    rows = torch.randn(9000, 6, generator=generator())
    clusters = kmeans._MovingClusters(rows, torch.arange(20), spherical=False)
    for _ in range(3):
        clusters.sweep_()
    members = [rows[clusters.codes == code] for code in range(20)]
    assert clusters.sizes.tolist() == [len(m) for m in members]
    torch.testing.assert_close(
        clusters.sums, torch.stack([m.sum(0) for m in members]), rtol=1e-3, atol=1e-2
    )


@pytest.mark.parametrize("spherical", [False, True])
def test_a_sweep_never_raises_the_inertia(spherical: bool) -> None:
    rows = torch.randn(9000, 12, generator=generator())
    rows = normalize(rows) if spherical else rows
    clusters = kmeans._MovingClusters(rows, torch.arange(30), spherical=spherical)
    inertias = [clusters.sweep_() for _ in range(6)]
    assert all(later <= earlier * (1 + 1e-6) for earlier, later in pairwise(inertias))


def test_an_emptied_cluster_takes_a_badly_served_row() -> None:
    rows = torch.cat([torch.zeros(50, 2), torch.tensor([[9.0, 9.0]])])
    rows[:50] += 0.01 * torch.randn(50, 2, generator=generator())
    clusters = kmeans._MovingClusters(rows, torch.tensor([0, 1]), spherical=False)
    clusters.codes[:] = 0
    clusters.sums = torch.stack([rows.sum(0), torch.zeros(2)])
    clusters.sizes = torch.tensor([51.0, 0.0])
    clusters.distances = kmeans.nearest(rows, rows[:1])[1]
    clusters.fill_empty_(generator())
    assert clusters.sizes.tolist() == [50, 1]
    torch.testing.assert_close(clusters.centroids[1], torch.tensor([9.0, 9.0]))


def test_the_last_assignment_leaves_no_centroid_without_rows() -> None:
    rows = torch.randn(200, 4, generator=generator())
    centroids = torch.cat([rows[:5], torch.full((3, 4), 1e3)])
    result = kmeans._settle(rows, centroids, generator())
    assert result.codes.bincount(minlength=8).min() >= 1


def test_centroids_that_no_row_can_tell_apart_are_refused() -> None:
    with pytest.raises(TooFewTokensError, match=r"Only 1 of the rows differ.*for 3 codes"):
        kmeans._settle(torch.ones(9, 2), torch.ones(3, 2), generator())


def test_opposite_rows_leave_a_direction() -> None:
    rows = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert cluster(rows, 1, spherical=True).centroids.norm().item() == pytest.approx(1)


def test_well_separated_blobs_are_found_exactly() -> None:
    rows = blobs(25, 40, 8)
    found = cluster(rows - rows.mean(0), 25)
    assert found.codes.bincount().tolist() == [40] * 25


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_inertia_is_no_worse_than_that_of_scikit_learn(seed: int) -> None:
    rows = blobs(60, 40, 10, seed=seed, noise=2.5)
    rows -= rows.mean(0)
    peer = KMeans(40, n_init=1, random_state=seed).fit(rows.numpy()).inertia_ / len(rows)
    assert cluster(rows, 40, seed=seed).distances.mean().item() < 1.02 * peer


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 80),
    d=st.integers(1, 6),
    share=st.floats(0, 1),
    spherical=st.booleans(),
    seed=st.integers(0, 999),
)
def test_every_cluster_has_rows_and_every_row_its_nearest(
    n: int, d: int, share: float, spherical: bool, seed: int
) -> None:
    rows = torch.randn(n, d, generator=generator(seed))
    rows = normalize(rows) if spherical else rows
    n_codes = max(1, int(share * n))
    try:
        found = cluster(rows, n_codes, spherical=spherical, seed=seed)
    except TooFewTokensError:
        assert len(rows.unique(dim=0)) < n_codes or d <= 2  # on a line, rows nearly coincide
        return
    assert found.codes.bincount(minlength=n_codes).min() >= 1
    assert found.centroids.shape == (n_codes, d)
    chosen = (rows - found.centroids[found.codes]).square().sum(1)
    best = torch.cdist(rows, found.centroids).square().amin(1)
    torch.testing.assert_close(chosen, best, rtol=1e-3, atol=1e-4)
