"""Clusterings of encoder outputs by libraries, as a codebook to start and to stay with."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from sklearn.cluster import AgglomerativeClustering, KMeans
from torch import Tensor

from clvq_lens.baselines.balanced import balanced_k_means
from clvq_lens.quantizer.initialization import Clusters, initialize
from clvq_lens.quantizer.kmeans import too_few_distinct

Clustering = Callable[[Float[Tensor, "n d"], int, torch.Generator], Clusters]
"""From rows, a number of codes and a generator on the device of the rows."""

_N_STARTS: Any = 1  # the type that scikit-learn declares is a string
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
    labels = KMeans(n_codes, n_init=_N_STARTS, random_state=_seed(generator)).fit_predict(rows)
    return _clusters(rows, labels, z.device)


def agglomerative(z: Float[Tensor, "n d"], n_codes: int, generator: torch.Generator) -> Clusters:
    """scikit-learn's agglomerative clustering by Ward's method; a code is the mean of a cluster."""
    rows = z.cpu().numpy()
    labels = AgglomerativeClustering(n_codes, linkage="ward").fit_predict(rows)
    return _clusters(rows, labels, z.device)


def balanced(z: Float[Tensor, "n d"], n_codes: int, generator: torch.Generator) -> Clusters:
    """k-means with clusters of equal size, as far as these rows go."""
    rows = z.cpu().numpy()
    labels = balanced_k_means(rows, n_codes, seed=_seed(generator))
    return _clusters(rows, labels, z.device)


def _initialized(method: Any) -> Clustering:
    def clustering(z: Tensor, n_codes: int, generator: torch.Generator) -> Clusters:
        return initialize(z, n_codes, method=method, generator=generator)

    return clustering


CLUSTERINGS: dict[str, Clustering] = {
    "k-means": k_means,
    "spherical k-means": _initialized("scaled_spherical"),
    "balanced k-means": balanced,
    "agglomerative": agglomerative,
    "random codes": _initialized("random"),
}


def check_rows(z: Float[Tensor, "n d"], n_codes: int) -> None:
    """Raises `TooFewTokensError` if there are fewer different rows than codes."""
    rows = np.ascontiguousarray(z.cpu().numpy())
    n_different = len(np.unique(rows.view(f"V{rows.itemsize * rows.shape[1]}")))
    if n_different < n_codes:
        raise too_few_distinct(n_different, n_codes)


def _clusters(rows: np.ndarray, labels: np.ndarray, device: torch.device) -> Clusters:
    """Means, sizes and inertia of the clusters, in double precision until the end."""
    codes, values = torch.from_numpy(labels).long(), torch.from_numpy(rows).double()
    sizes = codes.bincount()
    sums = values.new_zeros(len(sizes), values.shape[1]).index_add_(0, codes, values)
    means = sums / sizes.unsqueeze(1)
    inertia = float((values - means[codes]).square().sum(1).mean())
    return Clusters(means.float().to(device), sizes.to(device), inertia)


def _seed(generator: torch.Generator) -> int:
    """For a library that wants a number."""
    return int(torch.randint(2**31, (1,), generator=generator, device=generator.device))
