"""The codebook's first vectors, and a sample of a stream of encoder outputs to take them from."""

from dataclasses import dataclass
from typing import get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clvq_lens.arguments import check_choice
from clvq_lens.config import Initialization
from clvq_lens.errors import ConfigError, NonFiniteError, ShapeError, TooFewTokensError
from clvq_lens.quantizer import kmeans
from clvq_lens.quantizer.precision import best_float, in_double

_SHORTEST = torch.finfo(torch.float32).tiny ** 0.5  # the square of a shorter row underflows


@dataclass(frozen=True)
class Clusters:
    """What a codebook starts from.

    Attributes:
        centroids: Rows for the codebook, float32, on the device of the encoder outputs.
        sizes: How many encoder outputs belong to each.
        inertia: Mean over encoder outputs: 1 - cosine to their centroid for
            "scaled_spherical", else the squared distance.
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
) -> Clusters:
    """Vectors for a codebook, from encoder outputs.

    Args:
        z: Encoder outputs of training tokens, without padding, in any order and float type.
        n_codes: Number of vectors.
        method: "random" takes rows of ``z``; "kmeans++" means of clusters; "scaled_spherical"
            clusters directions by cosine and gives each the mean norm of its members.
        n_iterations: Most passes over ``z`` once seeds are drawn; a pass that lowers the inertia
            by less than 0.1 % is the last.
        generator: On the device of ``z``. On a CPU, the same state gives the same bits.

    Returns:
        The vectors, how many rows belong to each, and how well they fit. No cluster is empty.
        Rows of zeros have no direction; "scaled_spherical" counts them to the first cluster.

    Raises:
        ConfigError: If ``n_codes`` or ``n_iterations`` is below one, or the method unknown.
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
            return _euclidean(z, n_codes, n_iterations, generator)
        return _scaled_spherical(z, n_codes, n_iterations, generator)


class Reservoir:
    """A uniform sample, without replacement, of the rows of a stream of any length.

    Every row draws a key, and the rows with the smallest keys stay: whatever the batches, each
    set of ``capacity`` rows is equally likely.

    Args:
        capacity: Most rows to hold.
        generator: Draws the keys; the rows are held on its device.

    Raises:
        ConfigError: If ``capacity`` is below one.

    Example:
        >>> reservoir = Reservoir(100, torch.Generator().manual_seed(0))
        >>> for _ in range(5):
        ...     reservoir.add_(torch.randn(64, 8))
        >>> reservoir.sample().shape, reservoir.n_seen
        (torch.Size([100, 8]), 320)
    """

    def __init__(self, capacity: int, generator: torch.Generator) -> None:
        if capacity < 1:
            raise ConfigError(
                f"A reservoir of {capacity} rows holds nothing; capacity must be 1 or more."
            )
        self.capacity = capacity
        self.n_seen = 0
        self._generator = generator
        self._rows: Tensor | None = None
        self._key_dtype = best_float(generator.device)
        self._keys = torch.full(
            (capacity,), torch.inf, dtype=self._key_dtype, device=generator.device
        )

    def add_(self, rows: Float[Tensor, "n d"]) -> None:
        """Shows it the next rows of the stream.

        Raises:
            ShapeError: If they are not as wide as the rows before them.
        """
        if self._rows is None:
            self._rows = rows.new_empty(self.capacity, rows.shape[1], device=self._keys.device)
        if rows.shape[1] != self._rows.shape[1]:
            raise ShapeError(
                f"Rows of width {rows.shape[1]} came after rows of width {self._rows.shape[1]}. "
                "All rows of a stream have one width: use a reservoir per hook point."
            )
        self.n_seen += len(rows)
        keys = torch.rand(
            len(rows), generator=self._generator, device=self._keys.device, dtype=self._key_dtype
        )
        keys = torch.cat([self._keys, keys])
        stays = torch.zeros_like(keys, dtype=torch.bool)
        stays[keys.topk(self.capacity, largest=False).indices] = True
        left = (~stays[: self.capacity]).nonzero().squeeze(1)
        came = stays[self.capacity :].nonzero().squeeze(1)
        self._keys[left] = keys[self.capacity + came]
        self._rows[left] = rows.detach()[came.to(rows.device)].to(self._rows)

    def sample(self) -> Float[Tensor, "m d"]:
        """A copy of the rows it holds: all it has seen, or ``capacity`` of them.

        Raises:
            TooFewTokensError: If it has seen none.
        """
        if self._rows is None or self.n_seen == 0:
            raise TooFewTokensError("The reservoir has seen no rows. Call add_ before sample.")
        return self._rows[self._keys.isfinite()]


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
        distinct = z.unique(dim=0)  # slow, so only where the draw has met twins
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


def _euclidean(z: Tensor, n_codes: int, n_iterations: int, generator: torch.Generator) -> Clusters:
    order = torch.randperm(len(z), generator=generator, device=z.device)
    mean = z.mean(0, dtype=torch.float32)
    partition = kmeans.cluster(
        z[order].float().sub_(mean),  # a shared mean would drown the distances in float32
        n_codes,
        spherical=False,
        n_iterations=n_iterations,
        generator=generator,
    )
    return Clusters(
        centroids=partition.centroids + mean,
        sizes=partition.codes.bincount(minlength=n_codes),
        inertia=in_double(partition.distances).mean().item(),
    )


def _scaled_spherical(
    z: Tensor, n_codes: int, n_iterations: int, generator: torch.Generator
) -> Clusters:
    norms = torch.linalg.vector_norm(z.float(), dim=1)
    directed = (norms > _SHORTEST).nonzero().squeeze(1)
    if len(directed) < n_codes:
        raise kmeans.too_few_distinct(len(directed), n_codes)
    order = directed[torch.randperm(len(directed), generator=generator, device=z.device)]
    norms = norms[order]
    partition = kmeans.cluster(
        z[order].float().div_(norms.unsqueeze(1)),
        n_codes,
        spherical=True,
        n_iterations=n_iterations,
        generator=generator,
    )
    sizes = partition.codes.bincount(minlength=n_codes)
    n_undirected = len(z) - len(order)
    sizes[0] += n_undirected  # rows of zeros: cosine 0 to all codes, and the first of equals wins
    lengths = torch.zeros_like(norms[:n_codes]).index_add_(0, partition.codes, norms) / sizes
    one_less_cosines = in_double(partition.distances).sum() / 2 + n_undirected
    return Clusters(
        centroids=partition.centroids * lengths.unsqueeze(1),
        sizes=sizes,
        inertia=one_less_cosines.item() / len(z),
    )
