"""The first vectors of a codebook, from a sample of encoder outputs."""

from dataclasses import dataclass
from typing import get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clvq_lens.arguments import check_choice
from clvq_lens.config import Initialization
from clvq_lens.errors import ConfigError, NonFiniteError, TooFewTokensError
from clvq_lens.quantizer import kmeans
from clvq_lens.stats.precision import in_double

_SHORTEST = torch.finfo(torch.float32).tiny ** 0.5  # the square of a shorter row underflows


@dataclass(frozen=True)
class Clusters:
    """What a codebook starts from.

    Attributes:
        centroids: Code vectors in float32, on the device of the encoder outputs.
        sizes: How many encoder outputs belong to each centroid.
        inertia: Mean over encoder outputs of the squared distance to their centroid; for
            "scaled_spherical" of 1 - cosine.
    """

    centroids: Float[Tensor, "k d"]
    sizes: Int[Tensor, " k"]
    inertia: float


@torch.no_grad()
def initialize(
    z: Float[Tensor, "n d"],
    n_codes: int,
    *,
    method: Initialization = "scaled_spherical",
    n_iterations: int = 25,
    generator: torch.Generator,
    progress: bool = False,
) -> Clusters:
    """Vectors for a codebook, from encoder outputs.

    Args:
        z: Encoder outputs of training tokens, without padding, in any order and float type.
        n_codes: Number of vectors.
        method: "random" takes rows of ``z``; "kmeans++" takes means of clusters;
            "scaled_spherical" clusters directions by cosine, and gives each centroid the mean
            norm of its cluster.
        n_iterations: Largest number of passes over ``z`` after the seeds are drawn; a pass that
            lowers the inertia by less than 0.1 % is the last.
        generator: Random generator on the device of ``z``. On a CPU, the same state gives the
            same bits.
        progress: Whether to show progress bars.

    Returns:
        The vectors, how many rows belong to each, and how well they fit. No cluster is empty.
        Rows of zeros have no direction; "scaled_spherical" counts them in the first cluster.

    Raises:
        ConfigError: If ``n_codes`` or ``n_iterations`` is below one, or the method is unknown.
        TooFewTokensError: If fewer than ``n_codes`` rows (or directions) differ.
        NonFiniteError: If ``z`` holds NaN or infinity.

    Example:
        >>> z = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0]])
        >>> clusters = initialize(z, n_codes=2, generator=torch.Generator().manual_seed(0))
        >>> sorted(clusters.centroids.tolist())
        [[0.0, 5.0], [2.0, 0.0]]
    """
    _check_options(n_codes, method, n_iterations)
    _check_rows(z, n_codes)
    with torch.autocast(z.device.type, enabled=False):
        if method == "random":
            return _random(z, n_codes, generator)
        if method == "kmeans++":
            return _euclidean(z, n_codes, n_iterations, generator, progress)
        return _scaled_spherical(z, n_codes, n_iterations, generator, progress)


def _check_options(n_codes: int, method: str, n_iterations: int) -> None:
    if n_codes < 1:
        raise ConfigError(f"n_codes is {n_codes}; a codebook has 1 code or more.")
    if n_iterations < 1:
        raise ConfigError(f"n_iterations is {n_iterations}; at least 1 pass is needed.")
    check_choice("method", method, get_args(Initialization))


def _check_rows(z: Tensor, n_codes: int) -> None:
    if len(z) < n_codes:
        raise TooFewTokensError(
            f"{len(z)} rows cannot start {n_codes} codes: every code needs a row of its own. "
            f"Give more tokens, or set n_codes to {len(z)} or less."
        )
    finite = z.float().isfinite().all(1)
    if not finite.all():
        bad = (~finite).nonzero().squeeze(1).tolist()
        raise NonFiniteError(
            f"{len(bad)} of {len(z)} rows hold NaN or infinity, the first at row {bad[0]}. "
            "Encoder outputs must be finite: check the "
            "activations, or run the model in float32 or bfloat16."
        )


def _random(z: Tensor, n_codes: int, generator: torch.Generator) -> Clusters:
    order = torch.randperm(len(z), generator=generator, device=z.device)
    centroids = z[order[:n_codes]]
    if len(centroids.unique(dim=0)) < n_codes:
        distinct = z.unique(dim=0)  # slow, so only where the draw has equal rows
        if len(distinct) < n_codes:
            raise kmeans.too_few_distinct(len(distinct), n_codes)
        order = torch.randperm(len(distinct), generator=generator, device=z.device)
        centroids = distinct[order[:n_codes]]
    centroids = centroids.float()
    mean = centroids.mean(0)  # float32 distances are exact only near the origin
    codes, distances = kmeans.nearest(z.float() - mean, centroids - mean)
    return Clusters(
        centroids=centroids,
        sizes=codes.bincount(minlength=n_codes),
        inertia=in_double(distances).mean().item(),
    )


def _euclidean(
    z: Tensor, n_codes: int, n_iterations: int, generator: torch.Generator, progress: bool
) -> Clusters:
    # In random order, because k-means moves its centroids while it reads the rows.
    order = torch.randperm(len(z), generator=generator, device=z.device)
    mean = z.mean(0, dtype=torch.float32)
    clusters = kmeans.cluster(
        z[order].float().sub_(mean),  # with a large shared mean, distances would lose their digits
        n_codes,
        spherical=False,
        n_iterations=n_iterations,
        generator=generator,
        progress=progress,
    )
    return Clusters(
        centroids=clusters.centroids + mean,
        sizes=clusters.codes.bincount(minlength=n_codes),
        inertia=in_double(clusters.distances).mean().item(),
    )


def _scaled_spherical(
    z: Tensor, n_codes: int, n_iterations: int, generator: torch.Generator, progress: bool
) -> Clusters:
    norms = torch.linalg.vector_norm(z.float(), dim=1)
    directed = (norms > _SHORTEST).nonzero().squeeze(1)
    if len(directed) < n_codes:
        raise kmeans.too_few_distinct(len(directed), n_codes)
    order = directed[torch.randperm(len(directed), generator=generator, device=z.device)]
    norms = norms[order]
    clusters = kmeans.cluster(
        z[order].float().div_(norms.unsqueeze(1)),
        n_codes,
        spherical=True,
        n_iterations=n_iterations,
        generator=generator,
        progress=progress,
    )
    sizes = clusters.codes.bincount(minlength=n_codes)
    n_undirected = len(z) - len(order)
    sizes[0] += n_undirected  # rows of zeros have cosine 0 to all codes, and the lowest code wins
    norm_sums = torch.zeros_like(norms[:n_codes]).index_add_(0, clusters.codes, norms)
    mean_norms = norm_sums / sizes
    # On the sphere, 1 - cosine is half the squared distance; for rows of zeros it is 1.
    sum_of_inertia = in_double(clusters.distances).sum() / 2 + n_undirected
    return Clusters(
        centroids=clusters.centroids * mean_norms.unsqueeze(1),
        sizes=sizes,
        inertia=sum_of_inertia.item() / len(z),
    )
