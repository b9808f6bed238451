"""Scaled-spherical initialization beside faiss and scikit-learn: 80,000 x 768 to 400 codes.

All three get the same unit vectors' data in the same process, in turns. Cosine inertia is
measured by one function on the centroids that each returns.
"""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.timing import Row
from clvq_lens.quantizer.initialization import initialize


def gaussian(n: int, d: int, *, seed: int) -> Float[Tensor, "n d"]:
    """Noise without any structure."""
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def residual_like(n: int, d: int, *, seed: int) -> Float[Tensor, "n d"]:
    """Like a residual stream: mean cosine 0.86, heavy-tailed clusters, decaying spectrum."""
    g = torch.Generator().manual_seed(seed)
    spectrum = torch.arange(1, d + 1).pow(-0.5)
    spectrum /= spectrum.square().mean().sqrt()
    # More clusters than codes, and few of them large: nobody can find all of them.
    centers = torch.randn(1500, d, generator=g) * spectrum
    shares = torch.arange(1, len(centers) + 1).pow(-1.1)
    z = centers[torch.multinomial(shares, n, replacement=True, generator=g)]
    # Noise that is largest where the spectrum of the clusters is smallest.
    z += 0.6 * torch.randn(n, d, generator=g) * (1 + spectrum.flip(0)) / 2
    # A random rotation, or the clusters would lie along the axes.
    z = z @ torch.linalg.qr(torch.randn(d, d, generator=g))[0]
    # One mean for all, which holds 0.85 of the squared norm.
    mean = normalize(torch.randn(d, generator=g), dim=0)
    z += mean * (z.square().sum(1).mean() * 0.85 / 0.15).sqrt()
    # Norms that differ, which spherical k-means must not see.
    return z * torch.exp(0.25 * torch.randn(n, 1, generator=g))


def ours(z: Tensor, n_codes: int, seed: int) -> Tensor:
    """Our initialization."""
    return initialize(z, n_codes, generator=torch.Generator().manual_seed(seed)).centroids


def faiss_spherical(z: Tensor, n_codes: int, seed: int) -> Tensor:
    """Spherical k-means of faiss."""
    import faiss

    kmeans = faiss.Kmeans(z.shape[1], n_codes, niter=25, spherical=True, seed=seed)
    kmeans.train(normalize(z).numpy())
    return torch.from_numpy(kmeans.centroids)


def sklearn_unit(z: Tensor, n_codes: int, seed: int) -> Tensor:
    """k-means of scikit-learn on unit vectors, which has no spherical one."""
    from sklearn.cluster import KMeans

    kmeans = KMeans(n_codes, n_init=1, random_state=seed).fit(normalize(z).numpy())
    return torch.from_numpy(kmeans.cluster_centers_).float()


METHODS = {"clvq_lens": ours, "faiss": faiss_spherical, "scikit-learn": sklearn_unit}


def cosine_inertia(z: Float[Tensor, "n d"], centroids: Float[Tensor, "k d"]) -> float:
    """Mean over rows of 1 - cosine to the nearest centroid."""
    unit = normalize(centroids).T
    cosines = []
    for rows in z.split(4096):  # all rows by all centroids would not fit in memory
        cosines.append((normalize(rows) @ unit).amax(1).double())
    return 1 - torch.cat(cosines).mean().item()


class Run(NamedTuple):
    """How long one initialization took, and how good it is."""

    wait_s: float
    inertia: float


def run(
    *,
    n_rows: int = 80_000,
    d: int = 768,
    n_codes: int = 400,
    n_repetitions: int = 5,
    n_sklearn: int = 1,
    kinds: tuple[Callable[..., Tensor], ...] = (gaussian, residual_like),
) -> list[Row]:
    """Medians over interleaved runs, each with its own seed, as ratios to faiss."""
    table = []
    for kind in kinds:
        z = kind(n_rows, d, seed=0)
        runs: dict[str, list[Run]] = defaultdict(list)
        for seed in range(n_repetitions):
            for name, method in METHODS.items():
                if name == "scikit-learn" and seed >= n_sklearn:
                    continue  # a run takes minutes
                start = time.perf_counter()
                centroids = method(z, n_codes, seed)
                wait_s = time.perf_counter() - start
                runs[name].append(Run(wait_s, cosine_inertia(z, centroids)))
        for name in METHODS:
            table.append(_row(kind.__name__, name, runs))
    return table


def _row(data: str, name: str, runs: dict[str, list[Run]]) -> Row:
    own, reference = _median_wait_s(runs[name]), _median_wait_s(runs["faiss"])
    inertias = [run.inertia for run in runs[name]]
    mean, low, high = statistics.mean(inertias), min(inertias), max(inertias)
    note = f"cosine inertia {mean:.5f} ({low:.5f} to {high:.5f}, {len(inertias)} runs)"
    return Row(f"scaled-spherical k-means++, {data} data", name, own, own / reference, note)


def _median_wait_s(runs: list[Run]) -> float:
    return statistics.median(run.wait_s for run in runs)
