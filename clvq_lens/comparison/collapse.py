"""The collapse of duplicates: does one code stand for what every layer finds again on its own?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float, Int
from tqdm.auto import tqdm

from clvq_lens.arguments import as_list, check_count, check_seed
from clvq_lens.comparison.clusterings import Clusterings, Partition, clusters_needed
from clvq_lens.comparison.layers import LayerTokens, residual_points, sample_tokens
from clvq_lens.config import LongTexts
from clvq_lens.errors import ConfigError, TooFewTokensError
from clvq_lens.evaluation.bootstrap import BootstrapSums, Estimate, estimates_frame
from clvq_lens.evaluation.partitions import (
    AgreementTerms,
    conditional_entropy,
    contingency,
    effective_numbers,
    normalized_conditional_entropy,
)
from clvq_lens.lens import Lens
from clvq_lens.plots.collapse import plot_collapse
from clvq_lens.training.documents import Data, Split, open_documents

CODES, SHUFFLED = "codes", "codes, shuffled"
SOURCE, ALL, SAME = "k-means of the source", "k-means of all layers", "k-means of the same layer"
_HELD_OUT = 0.2  # of the documents, where no others are given
_GRID = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2)  # of the clusters, to interpolate the FVU between
_IN_SUMMARY = ("clusters_per_code", "codes_per_cluster", "h_cluster_normalized")
_IN_SUMMARY += ("h_code_normalized", "ami", "fvu")
_TOKENS_PER_CLUSTER = 5  # at least; with fewer a cluster is an anecdote


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
        fvu: Of this layer, every token replaced by the mean of its part: 0 perfect, 1 the mean.
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
class Collapse:
    """Codes across layers beside the clusters of each layer on its own, and beside baselines.

    Attributes:
        layers: Hook points, in order of depth.
        agreements: For each method and layer.
        own_fvu: FVU at each layer of each size of its own codebook, [layer, size].
        sizes: Numbers of clusters of that search.
        gathered: Effective number of clusters of each layer that each code gathers, [layer, code].
        code_tokens: Held-out tokens of each code.
        n_tokens: Training tokens that were clustered.
        n_held_out: Tokens that everything was measured on.
    """

    layers: tuple[str, ...]
    agreements: tuple[LayerAgreement, ...]
    own_fvu: Float[np.ndarray, "layers sizes"]
    sizes: tuple[int, ...]
    gathered: Float[np.ndarray, "layers codes"]
    code_tokens: Int[np.ndarray, " codes"]
    n_tokens: int
    n_held_out: int

    def frame(self) -> pd.DataFrame:
        """One row for each method and layer: columns as in `LayerAgreement`."""
        return estimates_frame(self.agreements)

    def summary(self) -> pd.DataFrame:
        """One row for each method: means over layers, and what one codebook saves.

        ``own_needed`` is the sum over layers of the clusters that reach the method's FVU there, and
        ``saved`` that sum over the parts the method has in use: the number of layers if its one
        codebook does as well at each as the layer's own of that size, 1 or less if separate
        codebooks of no more clusters in all do as well. k-means of the same layer is a codebook for
        each layer, and so the most that can be saved. Codes collapse duplicates beyond what any
        partition of the same stream does only where they save more than the other k-means.
        """
        rows = []
        for method, found in self.frame().groupby("method", sort=False):
            means, needed = found.mean(numeric_only=True), found["own_needed"].sum()
            row = {"method": method, "n_used": means["n_used"]}
            row |= {metric: means[metric] for metric in _IN_SUMMARY}
            rows.append({**row, "own_needed": needed, "saved": needed / means["n_used"]})
        return pd.DataFrame(rows)

    def grid(self) -> pd.DataFrame:
        """FVU on held-out tokens of each layer's own codebook, one row for each layer and size."""
        return pd.DataFrame(
            [
                {"layer": layer, "n_clusters": size, "fvu": float(self.own_fvu[row, column])}
                for row, layer in enumerate(self.layers)
                for column, size in enumerate(self.sizes)
            ]
        )

    def codes(self) -> pd.DataFrame:
        """One row for each code with held-out tokens, most tokens first: clusters it gathers.

        A column for each layer, and their mean.
        """
        frame = pd.DataFrame(dict(zip(self.layers, self.gathered, strict=True)))
        frame.insert(0, "n_tokens", self.code_tokens)
        frame.insert(0, "code", np.arange(len(frame)))
        frame["mean"] = self.gathered.mean(0)
        order = np.argsort(-self.code_tokens, kind="stable")
        return frame.iloc[order[self.code_tokens[order] > 0]].reset_index(drop=True)

    def plot(self) -> go.Figure:
        """Agreement, gathered clusters, FVU and clusters needed for it, layer by layer."""
        return plot_collapse(self.frame())


def collapse(
    lens: Lens,
    data: Data,
    *,
    held_out: Data | None = None,
    layers: Sequence[int | str] | None = None,
    n_clusters: int | None = None,
    n_tokens: int = 20_000,
    long_texts: LongTexts = "split",
    n_replicates: int = 1_000,
    seed: int = 0,
    progress: bool = True,
) -> Collapse:
    """Clusters each layer between source and target on its own and compares codes with that.

    Clusters come from k-means on training tokens; everything is measured on held-out tokens. Five
    partitions of the same tokens stand side by side: the codes; k-means of the source, and of all
    layers side by side (each scaled to unit variance), with as many clusters; k-means of the layer
    in question from another seed, which is the most that a partition can be expected to agree with
    it; and the codes shuffled over the tokens, which is chance.

    Args:
        lens: Fitted; a baseline as well.
        data: Documents that it was fitted on, as for `clvq_lens.Lens.fit`.
        held_out: Documents that it was not fitted on; None: a fifth of the data.
        layers: Layer numbers or hook points; None: source, target and every layer in between.
        n_clusters: Of each layer; None: as many as there are codes.
        n_tokens: Most tokens that are kept in memory, of either kind: a uniform sample. k-means
            sees no others, so with fewer than the lens was fitted on it is at a disadvantage.
        long_texts: What to do with a text beyond the context.
        n_replicates: Of the bootstrap over documents.
        seed: Of the samples, of k-means and of the bootstrap.
        progress: Whether to show progress bars.

    Raises:
        NotFittedError: If the lens has not been fitted.
        ConfigError: If there are fewer than two clusters, or another number is impossible.
        TooFewTokensError: If there are fewer than five training tokens for each cluster.

    Example:
        >>> collapse(lens, texts, held_out=other_texts).summary()  # doctest: +SKIP
    """
    lens.attachment.require_ready()
    n_clusters = lens.config.n_codes if n_clusters is None else n_clusters
    check_count("n_clusters", n_clusters, least=2)
    check_count("n_tokens", n_tokens)
    check_count("n_replicates", n_replicates)
    check_seed(seed)
    host = lens.host
    points = residual_points(host, lens.source, lens.target)
    if layers is not None:
        given = as_list("The layers", layers, "Pass a list of numbers or hook points.")
        if not given:
            raise ConfigError("There is no layer to look at. Name some, or pass layers=None.")
        points = list(dict.fromkeys(host.resolve(layer) for layer in given))
        for point in points:
            host.width(point)  # refuses what is not one vector for each token
    if held_out is None:
        split = Split(open_documents(data), _HELD_OUT)
        documents = split.training(), split.held_out()
    else:
        documents = open_documents(data), open_documents(held_out)
    random = np.random.default_rng(seed)
    read = list(dict.fromkeys([*points, lens.source]))
    options: dict[str, Any] = {"n_tokens": n_tokens, "long_texts": long_texts, "progress": progress}
    train, test = (
        sample_tokens(lens, read, part, generator=random, **options) for part in documents
    )
    if len(train) < _TOKENS_PER_CLUSTER * n_clusters:
        raise TooFewTokensError(
            f"There are {len(train)} training tokens for {n_clusters} clusters. Pass more data, a "
            f"larger n_tokens or fewer clusters: {_TOKENS_PER_CLUSTER} tokens for each at least."
        )
    return _Collapsing(lens, points, train, test, n_clusters, n_replicates, seed, progress).result()


class _Collapsing:
    """All clusterings, and what is measured of them."""

    def __init__(
        self,
        lens: Lens,
        points: list[str],
        train: LayerTokens,
        test: LayerTokens,
        n_clusters: int,
        n_replicates: int,
        seed: int,
        progress: bool,
    ) -> None:
        self._source, self._n_codes, self._points = lens.source, lens.config.n_codes, points
        self._train, self._test = train, test
        self._n_clusters, self._n_replicates, self._seed = n_clusters, n_replicates, seed
        self._progress = progress
        most = max(n_clusters, len(train) // _TOKENS_PER_CLUSTER)
        tried = {round(n_clusters * part) for part in _GRID}
        self._sizes = sorted({1, n_clusters, *(size for size in tried if 1 < size <= most)})
        self._documents, self._rows = np.unique(test.documents, return_inverse=True)

    def result(self) -> Collapse:
        """What was found."""
        own, shared, same = self._partitions()
        own_fvu = np.array(
            [[self._fvu(point, each) for each in own[point]] for point in self._points]
        )
        chosen = self._sizes.index(self._n_clusters)
        agreements: list[LayerAgreement] = []
        for method in (CODES, SOURCE, ALL, SAME, SHUFFLED):
            for row, point in enumerate(self._points):
                partition = same[point] if method == SAME else shared[method]
                measured = self._measured(point, partition, own[point][chosen])
                needed, beyond = clusters_needed(measured["fvu"], own_fvu[row], self._sizes)
                agreements.append(
                    LayerAgreement(method, point, **measured, own_needed=needed, beyond=beyond)
                )
        gathered = [
            effective_numbers(_counts(shared[CODES], own[point][chosen])) for point in self._points
        ]
        return Collapse(
            layers=tuple(self._points),
            agreements=tuple(agreements),
            own_fvu=own_fvu,
            sizes=tuple(self._sizes),
            gathered=np.stack(gathered),
            code_tokens=np.bincount(self._test.codes, minlength=self._n_codes),
            n_tokens=len(self._train),
            n_held_out=len(self._test),
        )

    def _partitions(
        self,
    ) -> tuple[dict[str, list[Partition]], dict[str, Partition], dict[str, Partition]]:
        """Of each layer on its own by size; one for all layers, by method; from another seed."""
        points = list(dict.fromkeys([*self._points, self._source]))
        n_fits = len(self._points) * len(self._sizes) + len(points) + 1
        codes = Partition(self._train.codes, self._test.codes, self._n_codes)
        with tqdm(total=n_fits, desc="k-means", disable=not self._progress) as bar:
            clusterings, n = Clusterings(self._train, self._test, bar), self._n_clusters
            own = {
                point: [clusterings.of_layer(point, k, seed=self._seed) for k in self._sizes]
                for point in self._points
            }
            same = {point: clusterings.of_layer(point, n, seed=self._seed + 1) for point in points}
            every = clusterings.of_layers(self._points, n, seed=self._seed + 1)
        shuffled = codes.shuffled(np.random.default_rng(self._seed))
        shared = {CODES: codes, SOURCE: same[self._source], ALL: every, SHUFFLED: shuffled}
        return own, shared, same

    def _measured(self, point: str, partition: Partition, clusters: Partition) -> dict[str, Any]:
        """Everything about a partition at a layer but the clusters needed."""
        counts = _counts(partition, clusters)
        terms = AgreementTerms.of(partition.test, clusters.test)
        sums = BootstrapSums(n_replicates=self._n_replicates, seed=self._seed)
        values = terms.sums(self._rows, len(self._documents)) | self._squares(point, partition)
        sums.add(self._documents.tolist(), values)
        return {
            "n_used": len(np.unique(partition.train)),
            "clusters_per_code": float(np.exp(conditional_entropy(counts))),
            "codes_per_cluster": float(np.exp(conditional_entropy(counts.T))),
            "h_cluster": conditional_entropy(counts),
            "h_cluster_normalized": normalized_conditional_entropy(counts),
            "h_code": conditional_entropy(counts.T),
            "h_code_normalized": normalized_conditional_entropy(counts.T),
            "ami": sums.estimate(terms.ami),
            "fvu": sums.estimate(lambda s: s["error"] / s["total"]),
        }

    def _squares(self, point: str, partition: Partition) -> dict[str, np.ndarray]:
        """Squared errors, and squared distances from the held-out mean, by document."""
        train, test = self._train.layers[point], self._test.layers[point].astype(np.float64)
        parts = {
            "error": partition.errors(train, test),
            "total": np.square(test - test.mean(0)).sum(1),
        }
        n = len(self._documents)
        return {name: np.bincount(self._rows, part, n) for name, part in parts.items()}

    def _fvu(self, point: str, partition: Partition) -> float:
        squares = self._squares(point, partition)
        return float(squares["error"].sum() / squares["total"].sum())


def _counts(partition: Partition, clusters: Partition) -> Int[np.ndarray, "a b"]:
    return contingency(partition.test, clusters.test, partition.n, clusters.n)
