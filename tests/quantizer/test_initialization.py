from collections.abc import Iterator
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from torch import Tensor
from torch.nn.functional import normalize

from clvq_lens.config import Initialization
from clvq_lens.errors import ConfigError, NonFiniteError, TooFewTokensError
from clvq_lens.quantizer.initialization import Clusters, initialize

METHODS = get_args(Initialization)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Thousands of tiny tensors: threads would only wait for each other."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def residual_like(n: int = 1200, d: int = 16, *, n_blobs: int = 12, noise: float = 0.3) -> Tensor:
    """Blobs around a large shared mean, of varying norm."""
    g = generator(7)
    z = 6 + torch.randn(n_blobs, d, generator=g)[torch.randint(n_blobs, (n,), generator=g)]
    z += noise * torch.randn(n, d, generator=g)
    return z * torch.exp(0.2 * torch.randn(n, 1, generator=g))


def start(z: Tensor, n_codes: int, method: Any, *, seed: int = 0, **options: Any) -> Clusters:
    return initialize(z, n_codes, method=method, generator=generator(seed), **options)


def cosine_codes(z: Tensor, centroids: Tensor) -> Tensor:
    return (normalize(z.double()) @ normalize(centroids.double()).T).argmax(1)


def test_random_centroids_are_different_rows() -> None:
    z = residual_like()
    centroids = start(z, 50, "random").centroids
    assert (centroids.unsqueeze(1) == z).all(2).any(1).all()
    assert len(centroids.unique(dim=0)) == 50


def test_random_passes_over_repeated_rows() -> None:
    z = residual_like(20).repeat(30, 1)
    assert len(start(z, 20, "random").centroids.unique(dim=0)) == 20


def test_kmeans_finds_separated_blobs_exactly() -> None:
    centers = 20 * torch.randn(9, 5, generator=generator(3)) + 100
    z = centers.repeat(30, 1) + 0.01 * torch.randn(270, 5, generator=generator(4))
    clusters = start(z, 9, "kmeans++")
    assert clusters.sizes.tolist() == [30] * 9
    assert torch.cdist(centers, clusters.centroids).amin(1).max() < 0.02


def test_kmeans_centroids_are_means_of_their_members() -> None:
    z = residual_like(noise=0.05)
    clusters = start(z, 12, "kmeans++", n_iterations=60)
    codes = torch.cdist(z.double(), clusters.centroids.double()).argmin(1)
    means = torch.stack([z[codes == code].mean(0) for code in range(12)])
    assert (means - clusters.centroids).norm() < 0.05 * means.std(0).norm()


def test_kmeans_inertia_is_that_of_scikit_learn() -> None:
    z = residual_like()
    peer = KMeans(30, n_init=1, random_state=0).fit(z.numpy()).inertia_ / len(z)
    assert start(z, 30, "kmeans++").inertia < 1.02 * peer


def test_spherical_directions_are_those_of_scikit_learn_on_separable_data() -> None:
    z = 3 * torch.randn(10, 12, generator=generator(1)).repeat(40, 1)
    z += 0.02 * torch.randn(z.shape, generator=generator(2))
    z *= torch.rand(len(z), 1, generator=generator(3)) + 0.5
    peer = KMeans(10, n_init=5, random_state=0).fit(normalize(z).numpy()).cluster_centers_
    ours = normalize(start(z, 10, "scaled_spherical").centroids)
    cosines = ours @ normalize(torch.from_numpy(peer)).T
    assert cosines.amax(0).min() > 1 - 1e-5
    assert sorted(cosines.argmax(1).tolist()) == list(range(10))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_spherical_inertia_is_that_of_scikit_learn(seed: int) -> None:
    z = residual_like(2000, n_blobs=80)
    peer = KMeans(40, n_init=1, random_state=seed).fit(normalize(z).numpy()).cluster_centers_
    cosines = normalize(z) @ normalize(torch.from_numpy(peer)).T
    ours = start(z, 40, "scaled_spherical", seed=seed).inertia
    assert ours < 1.02 * (1 - cosines.amax(1)).mean().item()


def test_spherical_norms_are_the_mean_norms_of_members() -> None:
    z = residual_like()
    clusters = start(z, 20, "scaled_spherical")
    codes = cosine_codes(z, clusters.centroids)
    for code, centroid in enumerate(clusters.centroids):
        assert centroid.norm().item() == pytest.approx(z[codes == code].norm(dim=1).mean().item())


def test_spherical_inertia_is_one_less_the_mean_cosine() -> None:
    z = residual_like()
    clusters = start(z, 20, "scaled_spherical")
    cosines = normalize(z) @ normalize(clusters.centroids).T
    assert clusters.inertia == pytest.approx((1 - cosines.amax(1)).mean().item(), rel=1e-4)


@pytest.mark.parametrize("method", ["random", "kmeans++"])
def test_euclidean_inertia_is_the_mean_squared_distance(method: str) -> None:
    z = residual_like()
    clusters = start(z, 20, method)
    d2 = torch.cdist(z.double(), clusters.centroids.double()).square().amin(1)
    assert clusters.inertia == pytest.approx(d2.mean().item(), rel=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_sizes_are_those_of_the_nearest_centroids(method: str) -> None:
    z = residual_like()
    clusters = start(z, 20, method)
    distances = torch.cdist(z.double(), clusters.centroids.double())
    spherical = method == "scaled_spherical"
    codes = cosine_codes(z, clusters.centroids) if spherical else distances.argmin(1)
    assert clusters.sizes.tolist() == codes.bincount(minlength=20).tolist()
    assert clusters.sizes.dtype == torch.long


@pytest.mark.parametrize("method", METHODS)
def test_same_seed_same_bits_and_another_seed_other_centroids(method: str) -> None:
    z = residual_like()
    first, again, other = (start(z, 20, method, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.centroids, again.centroids)
    assert torch.equal(first.sizes, again.sizes)
    assert first.inertia == again.inertia
    assert not torch.equal(first.centroids, other.centroids)


@pytest.mark.parametrize("method", METHODS)
def test_the_generator_advances_and_global_randomness_does_not(method: str) -> None:
    g, before = generator(), torch.get_rng_state()
    z = residual_like()
    first = initialize(z, 20, method=method, generator=g)  # type: ignore[arg-type]
    second = initialize(z, 20, method=method, generator=g)  # type: ignore[arg-type]
    assert not torch.equal(first.centroids, second.centroids)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_float_type_is_clustered_in_float32(method: str, dtype: torch.dtype) -> None:
    z = residual_like().to(dtype)
    clusters = start(z, 12, method)
    assert clusters.centroids.dtype == torch.float32
    expected = start(z.float(), 12, method)
    torch.testing.assert_close(clusters.centroids, expected.centroids, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_autocast_changes_no_bit(method: str) -> None:
    z = residual_like()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = start(z, 12, method)
    assert torch.equal(inside.centroids, start(z, 12, method).centroids)


@pytest.mark.parametrize("method", METHODS)
def test_no_gradient_flows_and_z_stays_as_it_is(method: str) -> None:
    z = residual_like().requires_grad_()
    before = z.detach().clone()
    assert not start(z, 12, method).centroids.requires_grad
    assert torch.equal(z.detach(), before)


@pytest.mark.parametrize("method", METHODS)
def test_rows_of_zeros_give_no_nan(method: str) -> None:
    z = residual_like()
    z[::3] = 0
    clusters = start(z, 20, method)
    assert clusters.centroids.isfinite().all()
    assert int(clusters.sizes.sum()) == len(z)
    if method == "scaled_spherical":
        assert clusters.centroids.norm(dim=1).min() > 0
        assert clusters.inertia == pytest.approx(1 / 3, rel=0.05)


@pytest.mark.parametrize("method", METHODS)
def test_as_many_codes_as_rows_gives_the_rows(method: str) -> None:
    z = residual_like(30)
    centroids = start(z, 30, method).centroids
    assert torch.cdist(z.double(), centroids.double()).amin(1).max() < 1e-5
    assert len(centroids.unique(dim=0)) == 30


@pytest.mark.parametrize("method", METHODS)
def test_fewer_rows_than_codes_are_refused(method: str) -> None:
    with pytest.raises(TooFewTokensError, match=r"5 rows cannot start 6 codes.*set n_codes to 5"):
        start(residual_like(5), 6, method)


@pytest.mark.parametrize("method", METHODS)
def test_fewer_distinct_rows_than_codes_are_refused(method: str) -> None:
    with pytest.raises(TooFewTokensError, match=r"Only 5 of the rows differ.*for 6 codes"):
        start(residual_like(5).repeat(50, 1), 6, method)


def test_fewer_directions_than_codes_are_refused() -> None:
    with pytest.raises(TooFewTokensError, match="Only 1 of the rows differ"):
        start(torch.ones(9, 3) * torch.arange(1.0, 10).unsqueeze(1), 2, "scaled_spherical")
    with pytest.raises(TooFewTokensError, match="Only 0 of the rows differ"):
        start(torch.zeros(9, 3), 1, "scaled_spherical")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    z = residual_like(50)
    z[7, 2] = value
    with pytest.raises(NonFiniteError, match=r"1 of 50 rows hold NaN or infinity.*at row 7"):
        start(z, 3, "random")


def test_impossible_options_are_refused() -> None:
    z = residual_like(50)
    with pytest.raises(ConfigError, match="n_codes is 0; a codebook has 1 code or more"):
        start(z, 0, "random")
    with pytest.raises(ConfigError, match="n_iterations is 0; at least 1 pass"):
        start(z, 3, "kmeans++", n_iterations=0)


def test_an_unknown_method_is_answered_with_the_closest() -> None:
    from clvq_lens.quantizer.initialization import _check_options

    with pytest.raises(ConfigError, match=r"'kmeans'.*Closest: 'kmeans\+\+'.*one of 'random'"):
        _check_options(3, "kmeans", 25)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 60),
    n_codes=st.integers(1, 60),
    method=st.sampled_from(METHODS),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
    seed=st.integers(0, 99),
)
def test_any_rows_give_finite_centroids_that_all_have_members(
    n: int, n_codes: int, method: str, scale: float, seed: int
) -> None:
    z = scale * torch.randn(n, 5, generator=generator(seed))
    n_codes = min(n, n_codes)
    clusters = start(z, n_codes, method, seed=seed)
    assert clusters.centroids.isfinite().all()
    assert clusters.sizes.min() >= 1
    assert int(clusters.sizes.sum()) == n
    assert clusters.inertia >= 0
