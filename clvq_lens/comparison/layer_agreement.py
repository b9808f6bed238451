"""How partitions of tokens agree with the clusters that each layer finds on its own."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from tqdm.auto import tqdm

from clvq_lens.comparison.layer_clusters import Clusterings, Partition, clusters_needed
from clvq_lens.comparison.layer_tokens import LayerTokens
from clvq_lens.lens import Lens
from clvq_lens.stats.contingency import contingency
from clvq_lens.stats.estimates import Estimate
from clvq_lens.stats.jackknife import JackknifeSums
from clvq_lens.stats.partitions import (
    AgreementTerms,
    conditional_entropy,
    effective_numbers,
    normalized_conditional_entropy,
)

SOURCE, ALL, SAME = "k-means of the source", "k-means of all layers", "k-means of the same layer"
SHUFFLED = "codes, shuffled"
BASELINES = (SOURCE, ALL, SAME, SHUFFLED)
TOKENS_PER_CLUSTER = 5  # at least; with fewer a cluster is an anecdote
_GRID = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2)  # parts of the clusters; the FVU is interpolated


@dataclass(frozen=True)
class LayerAgreement:
    """One partition of the tokens against the clusters that a layer finds on its own.

    Attributes:
        method: Which partition.
        layer: Hook point of the clusters.
        n_used: Parts in use among the training tokens.
        clusters_per_code: exp H(cluster | code): effective number of clusters that a code gathers.
        codes_per_cluster: exp H(code | cluster): effective number of codes that share a cluster.
        h_cluster: H(cluster | code) in nats.
        h_cluster_normalized: The same over H(cluster): 0 the code says all, 1 nothing.
        h_code: H(code | cluster) in nats.
        h_code_normalized: The same over H(code).
        ami: Adjusted mutual information: 1 the same partition, 0 chance.
        fvu: FVU of this layer, every token replaced by the mean of its part: 0 perfect, 1 the mean.
        own_needed: Clusters of the layer itself that reach the same FVU, by interpolation over the
            logarithm of their number; at most the largest number that was tried.
        beyond: Whether that largest number does not reach it.
    """

    method: str
    layer: str
    n_used: int
    clusters_per_code: float
    codes_per_cluster: float
    h_cluster: float
    h_cluster_normalized: float
    h_code: float
    h_code_normalized: float
    ami: Estimate
    fvu: Estimate
    own_needed: float
    beyond: bool


@dataclass(frozen=True)
class LayerPartitions:
    """All clusterings of the tokens, and their codes.

    Attributes:
        own: Clusterings of each layer on its own, one for each size.
        same: The same of each layer from another seed, with as many clusters as asked for.
        shared: Partitions that are one for all layers, by method.
    """

    own: dict[str, list[Partition]]
    same: dict[str, Partition]
    shared: dict[str, Partition]

    def of_method(self, method: str, point: str) -> Partition:
        """What a method makes of the tokens at a layer."""
        return self.same[point] if method == SAME else self.shared[method]


class LayerMeasures:
    """Clusters a sample of tokens, and measures codes and baselines by these clusters.

    Args:
        lenses: The lenses that gave the tokens their codes, by name; of one source.
        points: Hook points to look at.
        train: Training tokens.
        test: Held-out tokens.
        n_clusters: Clusters of each layer.
        seed: Random seed for k-means and shuffled codes.
    """

    def __init__(
        self,
        lenses: Mapping[str, Lens],
        points: list[str],
        train: LayerTokens,
        test: LayerTokens,
        *,
        n_clusters: int,
        seed: int,
    ) -> None:
        self.sizes = _sizes(n_clusters, len(train))
        self._n_codes = {name: lens.config.n_codes for name, lens in lenses.items()}
        self._source, self._points = next(iter(lenses.values())).source, points
        self._train, self._test = train, test
        self._n_clusters, self._seed = n_clusters, seed
        self._documents, self._rows = np.unique(test.documents, return_inverse=True)

    def partitions(self, *, progress: bool) -> LayerPartitions:
        """Clusters all layers; everything else is measured by that."""
        # A baseline that clusters the source needs it even where nobody looks at that layer.
        points = list(dict.fromkeys([*self._points, self._source]))
        n_fits = len(self._points) * len(self.sizes) + len(points) + 1
        # Another seed than that of the layers' own clusters, or each would agree with itself.
        seed, other_seed = self._seed, self._seed + 1
        own: dict[str, list[Partition]] = {point: [] for point in self._points}
        same: dict[str, Partition] = {}
        with tqdm(total=n_fits, desc="k-means", disable=not progress) as bar:
            clusterings = Clusterings(self._train, self._test, bar)
            for point in self._points:
                for size in self.sizes:
                    own[point].append(clusterings.of_layer(point, size, seed=seed))
            for point in points:
                same[point] = clusterings.of_layer(point, self._n_clusters, seed=other_seed)
            every = clusterings.of_layers(self._points, self._n_clusters, seed=other_seed)
        shared: dict[str, Partition] = {}
        for name, n_codes in self._n_codes.items():
            shared[name] = Partition(self._train.codes[name], self._test.codes[name], n_codes)
        first = next(iter(shared.values()))
        shared |= {SOURCE: same[self._source], ALL: every}
        shared[SHUFFLED] = first.shuffled(np.random.default_rng(self._seed))
        return LayerPartitions(own, same, shared)

    def own_fvu(self, partitions: LayerPartitions) -> Float[np.ndarray, "layers sizes"]:
        """FVU at each layer of each size of its own codebook."""
        return np.array([self._fvus(point, partitions.own[point]) for point in self._points])

    def agreements(
        self, partitions: LayerPartitions, own_fvu: Float[np.ndarray, "layers sizes"]
    ) -> tuple[LayerAgreement, ...]:
        """Every method at every layer."""
        agreements: list[LayerAgreement] = []
        for method in (*self._n_codes, *BASELINES):
            for point, fvus in zip(self._points, own_fvu, strict=True):
                partition = partitions.of_method(method, point)
                clusters = self._own_clusters(partitions, point)
                agreements.append(self._agreement(method, point, partition, clusters, fvus))
        return tuple(agreements)

    def gathered(self, partitions: LayerPartitions) -> dict[str, Float[np.ndarray, "layers codes"]]:
        """Effective number of clusters of each layer that each code of each lens gathers."""
        gathered: dict[str, np.ndarray] = {}
        for name in self._n_codes:
            of_layers = []
            for point in self._points:
                clusters = self._own_clusters(partitions, point)
                of_layers.append(effective_numbers(_counts(partitions.shared[name], clusters)))
            gathered[name] = np.stack(of_layers)
        return gathered

    def _own_clusters(self, partitions: LayerPartitions, point: str) -> Partition:
        """The clusters of a layer on its own, as many as asked for."""
        return partitions.own[point][self.sizes.index(self._n_clusters)]

    def _agreement(
        self,
        method: str,
        point: str,
        partition: Partition,
        clusters: Partition,
        own_fvu: Float[np.ndarray, " sizes"],
    ) -> LayerAgreement:
        """Everything about a partition at a layer."""
        counts = _counts(partition, clusters)
        terms = AgreementTerms.of(partition.test, clusters.test)
        sums = JackknifeSums()
        values = terms.sums(self._rows, len(self._documents)) | self._squares(point, partition)
        sums.add(self._documents.tolist(), values)
        fvu = sums.estimate(
            lambda some: some["error"] / some["total"], size="total", limits=(0.0, math.inf)
        )
        needed, beyond = clusters_needed(fvu, own_fvu, self.sizes)
        return LayerAgreement(
            method=method,
            layer=point,
            n_used=len(np.unique(partition.train)),
            clusters_per_code=float(np.exp(conditional_entropy(counts))),
            codes_per_cluster=float(np.exp(conditional_entropy(counts.T))),
            h_cluster=conditional_entropy(counts),
            h_cluster_normalized=normalized_conditional_entropy(counts),
            h_code=conditional_entropy(counts.T),
            h_code_normalized=normalized_conditional_entropy(counts.T),
            ami=sums.estimate(terms.ami, size="n", limits=(-math.inf, 1.0)),
            fvu=fvu,
            own_needed=needed,
            beyond=beyond,
        )

    def _squares(self, point: str, partition: Partition) -> dict[str, np.ndarray]:
        """Squared errors, and squared distances from the held-out mean, by document."""
        train = self._train.layers[point]
        test = self._test.layers[point].astype(np.float64)  # sums over many tokens
        error = partition.errors(train, test)
        total = np.square(test - test.mean(0)).sum(1)
        n_documents = len(self._documents)
        return {
            "error": np.bincount(self._rows, error, n_documents),
            "total": np.bincount(self._rows, total, n_documents),
        }

    def _fvus(self, point: str, partitions: Sequence[Partition]) -> list[float]:
        fvus = []
        for partition in partitions:
            squares = self._squares(point, partition)
            fvus.append(float(squares["error"].sum() / squares["total"].sum()))
        return fvus


def _sizes(n_clusters: int, n_tokens: int) -> list[int]:
    """Numbers of clusters between which the FVU is interpolated, ascending; 1 is the mean."""
    # With more clusters than that, many would hold a single token, whose FVU says nothing.
    most = max(n_clusters, n_tokens // TOKENS_PER_CLUSTER)
    sizes = {1, n_clusters}
    for part in _GRID:
        size = round(n_clusters * part)
        if 1 < size <= most:
            sizes.add(size)
    return sorted(sizes)


def _counts(partition: Partition, clusters: Partition) -> Int[np.ndarray, "a b"]:
    return contingency(partition.test, clusters.test, shape=(partition.n, clusters.n))
