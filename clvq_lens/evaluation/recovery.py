"""Do codes recover known concepts? NMI and purity beside baselines and a shuffled control."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from clvq_lens.evaluation.metrics import normalized_mutual_information, purity


@dataclass(frozen=True)
class Recovered:
    """How well one assignment of tokens matches the labels.

    Attributes:
        method: "codes", "k-means", "token identity" or "codes, labels shuffled".
        tokens: "all", or "ambiguous": tokens that occur with more than one label.
        n_tokens: How many of them.
        nmi: Normalised mutual information, in [0, 1].
        purity: Fraction of tokens with the commonest label of their cluster, in (0, 1].
    """

    method: str
    tokens: str
    n_tokens: int
    nmi: float
    purity: float


@dataclass(frozen=True)
class Recovery:
    """Concept recovery of codes next to baselines on the same tokens."""

    rows: tuple[Recovered, ...]

    def frame(self) -> pd.DataFrame:
        """One row for each method and set of tokens."""
        return pd.DataFrame([asdict(row) for row in self.rows])


def concept_recovery(
    codes: np.ndarray,
    source: np.ndarray,
    tokens: np.ndarray,
    labels: Sequence[str],
    *,
    n_codes: int,
    seed: int,
) -> Recovery:
    """Compares codes, k-means on the same activations and token identity with known labels.

    k-means is fitted on these very tokens, with as many clusters as there are codes: an advantage
    over codes, which were fitted on others.

    Args:
        codes: Of each real token.
        source: Activations at the source, [n, d].
        tokens: Token ids.
        labels: The true concept of each token.
        n_codes: Clusters of the k-means baseline.
        seed: Of k-means and of the shuffle.
    """
    from sklearn.cluster import KMeans

    names = np.asarray(labels)
    n_clusters = min(n_codes, len(source))
    kmeans = KMeans(n_clusters, n_init=1, random_state=seed % 2**32)  # pyright: ignore[reportArgumentType]
    clusters = kmeans.fit_predict(source)
    shuffled = np.random.default_rng(seed).permutation(names)
    everywhere = np.ones(len(names), dtype=bool)
    ambiguous = _is_ambiguous(tokens, names)
    rows = []
    for which, chosen in (("all", everywhere), ("ambiguous", ambiguous)):
        if not chosen.any():
            continue
        for method, assigned, truth in (
            ("codes", codes, names),
            ("k-means", clusters, names),
            ("token identity", tokens, names),
            ("codes, labels shuffled", codes, shuffled),
        ):
            nmi = normalized_mutual_information(assigned[chosen], truth[chosen])
            pure = purity(assigned[chosen], truth[chosen])
            rows.append(Recovered(method, which, int(chosen.sum()), nmi, pure))
    return Recovery(tuple(rows))


def _is_ambiguous(tokens: np.ndarray, labels: np.ndarray) -> np.ndarray:
    pairs = np.unique(np.stack([tokens, np.unique(labels, return_inverse=True)[1]]), axis=1)
    seen, n_labels = np.unique(pairs[0], return_counts=True)
    return np.isin(tokens, seen[n_labels > 1])
