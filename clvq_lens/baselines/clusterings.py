"""Clusterings of encoder outputs, as codebooks that are not trained any further."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.cluster import AgglomerativeClustering
from torch import Tensor
from tqdm.auto import tqdm

from clvq_lens.baselines.balanced import balanced_k_means, library_k_means
from clvq_lens.baselines.kinds import Baseline
from clvq_lens.config import Initialization
from clvq_lens.quantizer.codebook import Codebook
from clvq_lens.quantizer.initialization import Clusters, initialize
from clvq_lens.quantizer.kmeans import too_few_distinct

Clustering = Callable[[Float[Tensor, "n d"], int, torch.Generator], Clusters]
"""From rows, a number of codes and a generator on the device of the rows."""

OF_THE_TARGET: Baseline = "k-means of the target"
"""The kind that reads the target itself."""

_MOST_ROWS = 200_000
_MOST_AGGLOMERATED = 10_000  # the distances of all pairs take 400 MB
_BALANCED_PER_CODE = 64  # costs of all rows and codes are kept


def sample_size(kind: str, n_codes: int, n_tokens: int) -> int:
    """How many tokens a clustering reads, at most."""
    most = {
        "agglomerative": max(_MOST_AGGLOMERATED, 2 * n_codes),
        "balanced k-means": _BALANCED_PER_CODE * n_codes,
    }
    return min(most.get(kind, _MOST_ROWS), n_tokens)


def k_means(z: Float[Tensor, "n d"], n_codes: int, generator: torch.Generator) -> Clusters:
    """scikit-learn's k-means from one k-means++ start."""
    rows = z.cpu().numpy()
    codes = library_k_means(n_codes, seed=_seed(generator)).fit_predict(rows)
    return _clusters(rows, codes, z.device)


def agglomerative(z: Float[Tensor, "n d"], n_codes: int, generator: torch.Generator) -> Clusters:
    """scikit-learn's agglomerative clustering by Ward's method; a code is the mean of a cluster."""
    rows = z.cpu().numpy()
    codes = AgglomerativeClustering(n_codes, linkage="ward").fit_predict(rows)
    return _clusters(rows, codes, z.device)


def balanced(z: Float[Tensor, "n d"], n_codes: int, generator: torch.Generator) -> Clusters:
    """k-means with clusters that have equal sizes among these rows."""
    rows = z.cpu().numpy()
    codes = balanced_k_means(rows, n_codes, seed=_seed(generator))
    return _clusters(rows, codes, z.device)


def _initialized(method: Initialization) -> Clustering:
    """A way to start a codebook, taken for the whole clustering."""

    def clustering(z: Tensor, n_codes: int, generator: torch.Generator) -> Clusters:
        return initialize(z, n_codes, method=method, generator=generator)

    return clustering


CLUSTERINGS: dict[str, Clustering] = {
    "k-means": k_means,
    "spherical k-means": _initialized("scaled_spherical"),
    "balanced k-means": balanced,
    "agglomerative": agglomerative,
    "random codes": _initialized("random"),
    OF_THE_TARGET: k_means,
}


def cluster_codes_(
    codebook: Codebook,
    kind: str,
    z: Float[Tensor, "n d"],
    generator: torch.Generator,
    *,
    progress: bool,
) -> None:
    """Makes the clusters of some rows the codes of a codebook.

    Args:
        codebook: The codebook.
        kind: How they are clustered; one of `CLUSTERINGS`.
        z: The rows.
        generator: Random generator on their device.
        progress: Whether to show that it is at work.

    Raises:
        TooFewTokensError: If there are fewer different rows than codes.
    """
    n_codes = len(codebook.vectors)
    check_rows(z, n_codes)
    about = f"{kind}, {len(z):,} tokens into {n_codes:,} codes"
    # It cannot say how far it is, but that it is at work: at 200,000 tokens, for minutes.
    with tqdm(total=1, desc=about, disable=not progress) as bar:
        codebook.initialize_(CLUSTERINGS[kind](z, n_codes, generator))
        bar.update()
    codebook.measure_distance_(z, codebook.nearest(z), decay=0.0)


def check_rows(z: Float[Tensor, "n d"], n_codes: int) -> None:
    """Raises `TooFewTokensError` if there are fewer different rows than codes."""
    rows = np.ascontiguousarray(z.cpu().numpy())
    # Each row as one value of raw bytes: much faster than np.unique along an axis.
    n_different = len(np.unique(rows.view(f"V{rows.itemsize * rows.shape[1]}")))
    if n_different < n_codes:
        raise too_few_distinct(n_different, n_codes)


def _clusters(
    rows: Float[np.ndarray, "n d"], codes: Int[np.ndarray, " n"], device: torch.device
) -> Clusters:
    """Means, sizes and inertia of the clusters, in double precision until the end."""
    code_of_row, values = torch.from_numpy(codes).long(), torch.from_numpy(rows).double()
    sizes = code_of_row.bincount()
    sums = values.new_zeros(len(sizes), values.shape[1]).index_add_(0, code_of_row, values)
    means = sums / sizes.unsqueeze(1)
    inertia = float((values - means[code_of_row]).square().sum(1).mean())
    return Clusters(means.float().to(device), sizes.to(device), inertia)


def _seed(generator: torch.Generator) -> int:
    """A seed for a library that takes a number and no generator."""
    return int(torch.randint(2**31, (1,), generator=generator, device=generator.device))
