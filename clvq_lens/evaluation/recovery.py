"""Do codes recover known concepts? AMI, NMI and purity beside baselines and shuffled labels."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from sklearn.cluster import KMeans
from torch import Tensor

from clvq_lens.data.numbered_labels import NumberedLabels
from clvq_lens.data.token_labels import TokenLabels
from clvq_lens.data.tokens import TokenBatch
from clvq_lens.showing import Shown
from clvq_lens.stats.contingency import contingency
from clvq_lens.stats.metrics import nmi_of_counts, purity_of_counts
from clvq_lens.stats.partitions import adjusted_mutual_information
from clvq_lens.stats.reservoir import Reservoir

_MOST_TOKENS = 2**15  # k-means on more would take longer than all the rest


@dataclass(frozen=True)
class Recovered:
    """How well one assignment of tokens matches the labels.

    Attributes:
        method: "codes", "k-means", "token identity" or "codes, labels shuffled".
        tokens: "all", or "ambiguous": tokens that occur with more than one label.
        n_tokens: Number of these tokens.
        ami: Adjusted mutual information: 0 on average by chance, 1 if each determines the other.
        nmi: Normalized mutual information, in [0, 1]; many clusters alone raise it.
        purity: Fraction of tokens with the commonest label of their cluster, in (0, 1].
    """

    method: str
    tokens: str
    n_tokens: int
    ami: float
    nmi: float
    purity: float


@dataclass(frozen=True, repr=False)
class Recovery(Shown):
    """Concept recovery of codes next to baselines on the same tokens.

    Attributes:
        rows: One for each method and set of tokens, codes on all tokens first.
    """

    rows: tuple[Recovered, ...]

    def frame(self) -> pd.DataFrame:
        """One row for each method and set of tokens."""
        return pd.DataFrame([asdict(row) for row in self.rows])

    def headline(self) -> str:
        """AMI and purity of the codes, or of what else the first row is about."""
        if not self.rows:
            return "no tokens"
        first = self.rows[0]
        return (
            f"{first.method} on {first.n_tokens:,} tokens: AMI {first.ami:.3f}, "
            f"purity {first.purity:.3f}"
        )

    def preview(self) -> pd.DataFrame:
        """All methods, codes and baselines."""
        return self.frame()


class RecoveryTokens:
    """Codes, activations, tokens and labels of a fair draw of tokens.

    Args:
        token_labels: The true concept of every real token of every document.
        seed: Random seed for the draw, for k-means and for the shuffle.

    Raises:
        DataError: If they are no lists of strings.
    """

    def __init__(self, token_labels: TokenLabels, seed: int) -> None:
        self._labels, self._seed = NumberedLabels(token_labels), seed
        self._random = np.random.default_rng(seed)
        # Every row comes with its key, so this generator draws nothing. It puts rows on the CPU.
        self._drawn = Reservoir(_MOST_TOKENS, torch.Generator())

    def add(
        self,
        batch: TokenBatch,
        mask: Bool[Tensor, "b pos"],
        codes: Int[Tensor, "b pos"],
        source: Float[Tensor, "b pos d"],
    ) -> None:
        """Offers the tokens of a batch to the draw; everything is on the CPU.

        Args:
            batch: With a label for every real token.
            mask: True on real tokens that are no outliers: those that may be drawn.
            codes: The code of each position.
            source: Activations at the source.

        Raises:
            DataError: If labels do not match the tokens.
        """
        numbers = torch.from_numpy(self._labels.of(batch, mask))
        keys = torch.from_numpy(self._random.random(len(numbers)))
        self._drawn.add_(codes[mask], source[mask], batch.tokens[mask], numbers, keys=keys)

    def result(self, *, n_codes: int) -> Recovery:
        """How well codes and baselines recover the labels.

        Args:
            n_codes: Clusters of the k-means baseline.

        Raises:
            DataError: If there are labels of documents that were not read.
        """
        self._labels.check_all_used()
        # k-means depends on the order of its rows. Where a row lies in the reservoir depends on how
        # the stream was cut into batches; its key does not.
        order = self._drawn.keys.argsort(stable=True)
        codes, source, tokens, numbers = self._drawn.sample()
        names = self._labels.names
        return concept_recovery(
            codes[order].numpy(),
            source[order].numpy(),
            tokens[order].numpy(),
            [names[number] for number in numbers[order].tolist()],
            n_codes=n_codes,
            seed=self._seed,
        )


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
        codes: The code of each real token.
        source: Activations at the source, [n, d].
        tokens: Token ids.
        labels: The true concept of each token.
        n_codes: Clusters of the k-means baseline.
        seed: Random seed for k-means and for the shuffle.
    """
    truth = np.asarray(labels)
    n_clusters = min(n_codes, len(source))
    # scikit-learn takes no seed of more than 32 bits.
    kmeans = KMeans(n_clusters, n_init=1, random_state=seed % 2**32)  # pyright: ignore[reportArgumentType]
    clusters = kmeans.fit_predict(source)
    everywhere = np.ones(len(truth), dtype=bool)
    rows: list[Recovered] = []
    # Only context can tell what an ambiguous token is, so there a lookup of tokens is of no use.
    for which, chosen in (("all", everywhere), ("ambiguous", _is_ambiguous(tokens, truth))):
        if not chosen.any():
            continue
        true_labels = truth[chosen]
        # Shuffled among these very tokens: other tokens have other labels, and other shares.
        shuffled = np.random.default_rng(seed).permutation(true_labels)
        for method, assigned, compared_with in (
            ("codes", codes, true_labels),
            ("k-means", clusters, true_labels),
            ("token identity", tokens, true_labels),
            # Many clusters are pure by themselves: this is how pure without any knowledge.
            ("codes, labels shuffled", codes, shuffled),
        ):
            counts = contingency(assigned[chosen], compared_with)
            rows.append(
                Recovered(
                    method=method,
                    tokens=which,
                    n_tokens=int(chosen.sum()),
                    ami=adjusted_mutual_information(counts),
                    nmi=nmi_of_counts(counts),
                    purity=purity_of_counts(counts),
                )
            )
    return Recovery(tuple(rows))


def _is_ambiguous(tokens: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Whether a token occurs with more than one label."""
    _, numbers = np.unique(labels, return_inverse=True)
    pairs = np.unique(np.stack([tokens, numbers]), axis=1)
    # Each pair is there once, so a token is there once for each of its labels.
    token, n_labels = np.unique(pairs[0], return_counts=True)
    return np.isin(tokens, token[n_labels > 1])
