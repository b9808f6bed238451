"""The collapse of duplicates: does one code stand for what every layer finds again on its own?"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float, Int

from clvq_lens.arguments import as_list, check_count, check_seed
from clvq_lens.comparison.layer_agreement import (
    BASELINES,
    SAME,
    SHUFFLED,
    SOURCE,
    TOKENS_PER_CLUSTER,
    LayerAgreement,
    LayerMeasures,
)
from clvq_lens.comparison.layer_tokens import (
    LayerOutliers,
    LayerTokens,
    residual_points,
    sample_tokens,
)
from clvq_lens.comparison.named_lenses import named_lenses
from clvq_lens.config import LongTexts
from clvq_lens.data.document import Document
from clvq_lens.data.documents import Data, open_documents
from clvq_lens.data.split import Split
from clvq_lens.errors import ConfigError, TooFewTokensError
from clvq_lens.host.attachment import ready
from clvq_lens.lens import Lens
from clvq_lens.plots.layer_panels import plot_collapse
from clvq_lens.showing import Shown
from clvq_lens.stats.estimates import estimates_frame

_HELD_OUT = 0.2  # part of the documents, where no others are given
_IN_SUMMARY = ["clusters_per_code", "codes_per_cluster", "h_cluster_normalized"]
_IN_SUMMARY += ["h_code_normalized", "ami", "fvu"]


@dataclass(frozen=True, repr=False)
class Collapse(Shown):
    """Codes across layers beside the clusters of each layer on its own, and beside baselines.

    Attributes:
        layers: Hook points, in order of depth.
        agreements: For each method and layer.
        own_fvu: FVU at each layer of each size of its own codebook, [layer, size].
        sizes: Numbers of clusters of that search.
        gathered: Effective number of clusters of each layer that each code gathers, [layer, code],
            by name of the lens.
        code_tokens: Held-out tokens of each code, by name of the lens.
        n_tokens: Training tokens that were clustered.
        n_held_out: Tokens that everything was measured on.
        n_outliers: Tokens of both kinds that were left out of everything: at one of the layers at
            least, their activation is more than ten times as long as that of the median token.
    """

    layers: tuple[str, ...]
    agreements: tuple[LayerAgreement, ...]
    own_fvu: Float[np.ndarray, "layers sizes"]
    sizes: tuple[int, ...]
    gathered: Mapping[str, Float[np.ndarray, "layers codes"]]
    code_tokens: Mapping[str, Int[np.ndarray, " codes"]]
    n_tokens: int
    n_held_out: int
    n_outliers: int

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
        summaries = []
        for method, rows in self.frame().groupby("method", sort=False):
            means, needed = rows.mean(numeric_only=True), rows["own_needed"].sum()
            summary = {"method": method, "n_used": means["n_used"]}
            for metric in _IN_SUMMARY:
                summary[metric] = means[metric]
            summary |= {"own_needed": needed, "saved": needed / means["n_used"]}
            summaries.append(summary)
        return pd.DataFrame(summaries)

    def grid(self) -> pd.DataFrame:
        """FVU on held-out tokens of each layer's own codebook, one row for each layer and size."""
        rows = []
        for layer, fvus in zip(self.layers, self.own_fvu, strict=True):
            for size, fvu in zip(self.sizes, fvus, strict=True):
                rows.append({"layer": layer, "n_clusters": size, "fvu": float(fvu)})
        return pd.DataFrame(rows)

    def codes(self) -> pd.DataFrame:
        """One row for each code with held-out tokens, most tokens first: clusters it gathers.

        Lens by lens, with a column for each layer, and their mean.
        """
        frames: list[pd.DataFrame] = []
        for method, gathered in self.gathered.items():
            frame = pd.DataFrame(dict(zip(self.layers, gathered, strict=True)))
            n_tokens = self.code_tokens[method]
            frame = frame.assign(mean=gathered.mean(0))
            frame.insert(0, "n_tokens", n_tokens)
            frame.insert(0, "code", np.arange(len(frame)))
            frame.insert(0, "method", method)
            # Stable: codes with as many tokens keep their order on every machine.
            order = np.argsort(-n_tokens, kind="stable")
            frames.append(frame.iloc[order[n_tokens[order] > 0]])
        return pd.concat(frames, ignore_index=True)

    def plot(self) -> go.Figure:
        """Agreement, gathered clusters, FVU and clusters needed for it, layer by layer."""
        return plot_collapse(self.frame(), chance=SHUFFLED)

    def headline(self) -> str:
        """How much codes save beside the baselines, over how many layers and tokens."""
        summary = self.summary().set_index("method")["saved"]
        saved = ", ".join(
            f"{method} {summary[method]:.2f}" for method in (*self.gathered, SOURCE, SAME)
        )
        outliers = f", {self.n_outliers:,} outliers left out" if self.n_outliers else ""
        return (
            f"codebooks saved over {len(self.layers)} layers: {saved}; {self.n_tokens:,} tokens "
            f"clustered, {self.n_held_out:,} held out{outliers}"
        )

    def preview(self) -> pd.DataFrame:
        """Means over layers for each method."""
        return self.summary()


def collapse(
    lenses: Lens | Mapping[str, Lens],
    data: Data,
    *,
    held_out: Data | None = None,
    layers: Sequence[int | str] | None = None,
    n_clusters: int | None = None,
    n_tokens: int = 20_000,
    long_texts: LongTexts = "split",
    seed: int = 0,
    progress: bool = True,
) -> Collapse:
    """Clusters each layer between source and target on its own and compares codes with that.

    Clusters come from k-means on training tokens; everything is measured on held-out tokens. Side
    by side stand five kinds of partitions of the same tokens: the codes of each lens; k-means of
    the source, and of all layers side by side (each scaled to unit variance), with as many
    clusters; k-means of the layer in question from another seed, which is the most that a partition
    can be expected to agree with it; and the codes of the first lens shuffled over the tokens,
    which is chance. Outliers at any of the layers are left out, unless the first lens was fitted
    with them.

    Args:
        lenses: A fitted lens or a baseline, or several by name, which read the same hook point of
            the same model.
        data: Documents that they were fitted on, as for `clvq_lens.Lens.fit`.
        held_out: Documents that they were not fitted on; None: a fifth of the data.
        layers: Layer numbers or hook points; None: source and target of the first lens, and every
            layer in between.
        n_clusters: Clusters of each layer; None: as many as the first lens has codes.
        n_tokens: Most tokens that are kept in memory, of either kind: a uniform sample. k-means
            sees no others, so with fewer than the lens was fitted on it is at a disadvantage.
        long_texts: What to do with a text beyond the context.
        seed: Random seed for the samples and for k-means.
        progress: Whether to show progress bars.

    Raises:
        NotFittedError: If a lens has not been fitted.
        ConfigError: If there are fewer than two clusters, another number is impossible, or lenses
            do not read the same.
        DataError: If no lens is given, or one has the name of a baseline.
        EmptyCorpusError: If the data hold no real token.
        TooFewTokensError: If there are fewer than five training tokens for each cluster.

    Example:
        >>> collapse(lens, texts, held_out=other_texts).summary()  # doctest: +SKIP
    """
    named = named_lenses(lenses, taken=BASELINES)
    lens = _first_of_one_source(named)
    n_clusters = lens.config.n_codes if n_clusters is None else n_clusters
    check_count("n_clusters", n_clusters, least=2)
    check_count("n_tokens", n_tokens)
    check_seed(seed)
    points = _points(lens, layers)
    training, testing = _divided(data, held_out)
    sampled = partial(
        sample_tokens,
        named,
        list(dict.fromkeys([*points, lens.source])),  # the codes come from the source
        n_tokens=n_tokens,
        generator=np.random.default_rng(seed),  # one for both: training tokens are drawn first
        long_texts=long_texts,
        progress=progress,
    )
    train, test = sampled(training), sampled(testing)
    outliers = LayerOutliers(lens, train)
    of_train, of_test = outliers.among(train), outliers.among(test)
    train, test = train.without(of_train), test.without(of_test)
    _require_enough(train, n_clusters)
    measures = LayerMeasures(named, points, train, test, n_clusters=n_clusters, seed=seed)
    partitions = measures.partitions(progress=progress)
    own_fvu = measures.own_fvu(partitions)
    return Collapse(
        layers=tuple(points),
        agreements=measures.agreements(partitions, own_fvu),
        own_fvu=own_fvu,
        sizes=tuple(measures.sizes),
        gathered=measures.gathered(partitions),
        code_tokens=_code_tokens(named, test),
        n_tokens=len(train),
        n_held_out=len(test),
        n_outliers=int(of_train.sum() + of_test.sum()),
    )


def _first_of_one_source(lenses: Mapping[str, Lens]) -> Lens:
    """The first lens, which says what is clustered.

    Raises:
        NotFittedError: If one of them has not been fitted.
        ConfigError: If another one does not read what it reads.
    """
    first, *others = lenses.values()
    for lens in lenses.values():
        ready(lens)
    for lens in others:
        if lens.model is not first.model or lens.source != first.source:
            raise ConfigError(
                f"The lens {lens.name!r} reads {lens.source}, and {first.name!r} reads "
                f"{first.source}, or they read other models. Pass lenses of one source and model."
            )
    return first


def _code_tokens(lenses: Mapping[str, Lens], test: LayerTokens) -> dict[str, np.ndarray]:
    """Held-out tokens of each code of each lens."""
    counts: dict[str, np.ndarray] = {}
    for name, lens in lenses.items():
        counts[name] = np.bincount(test.codes[name], minlength=lens.config.n_codes)
    return counts


def _require_enough(train: LayerTokens, n_clusters: int) -> None:
    """Raises `TooFewTokensError` unless there are some training tokens for every cluster."""
    if len(train) < TOKENS_PER_CLUSTER * n_clusters:
        raise TooFewTokensError(
            f"There are {len(train)} training tokens for {n_clusters} clusters. Pass more data, a "
            f"larger n_tokens or fewer clusters: {TOKENS_PER_CLUSTER} tokens for each at least."
        )


def _points(lens: Lens, layers: Sequence[int | str] | None) -> list[str]:
    """The hook points to look at, each once."""
    host = lens.host
    if layers is None:
        return residual_points(host, lens.source, lens.target)
    given = as_list("The layers", layers, "Pass a list of numbers or hook points.")
    if not given:
        raise ConfigError("There is no layer to look at. Name some, or pass layers=None.")
    points = list(dict.fromkeys(host.resolve(layer) for layer in given))
    for point in points:
        host.width(point)  # refuses what is not one vector for each token
    return points


def _divided(data: Data, held_out: Data | None) -> tuple[Iterable[Document], Iterable[Document]]:
    """Documents to cluster, and documents to measure on."""
    if held_out is not None:
        return open_documents(data), open_documents(held_out)
    split = Split(open_documents(data), _HELD_OUT)
    return split.training(), split.held_out()
