"""Agreement of codes with known labels, beside labels shuffled over the same tokens."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from jaxtyping import Int

from clvq_lens.evaluation.metrics import nmi_of_counts, purity_of_counts


@dataclass(frozen=True)
class Agreement:
    """How well codes and labels of the same tokens agree.

    Attributes:
        n_tokens: Labelled tokens.
        n_codes: Codes in use among them.
        n_labels: Distinct labels.
        nmi: Normalised mutual information, in [0, 1].
        nmi_shuffled: The same with the labels shuffled over the tokens: the baseline.
        purity: Fraction of tokens with the commonest label of their code.
        purity_shuffled: The same with the labels shuffled.
    """

    n_tokens: int
    n_codes: int
    n_labels: int
    nmi: float
    nmi_shuffled: float
    purity: float
    purity_shuffled: float

    def frame(self) -> pd.DataFrame:
        """One row."""
        return pd.DataFrame([asdict(self)])


def agreement(counts: Int[np.ndarray, "codes labels"], *, seed: int = 0) -> Agreement | None:
    """Agreement from counts of (code, label); None where nothing was counted.

    Args:
        counts: Tokens with each code and label.
        seed: Of the shuffled labels.
    """
    counts = counts[counts.sum(1) > 0][:, counts.sum(0) > 0]
    if counts.size == 0:
        return None
    control = shuffled(counts, seed=seed)
    return Agreement(
        n_tokens=int(counts.sum()),
        n_codes=counts.shape[0],
        n_labels=counts.shape[1],
        nmi=nmi_of_counts(counts),
        nmi_shuffled=nmi_of_counts(control),
        purity=purity_of_counts(counts),
        purity_shuffled=purity_of_counts(control),
    )


def shuffled(counts: Int[np.ndarray, "a b"], *, seed: int) -> Int[np.ndarray, "a b"]:
    """Counts of pairs as they would be had one side been shuffled over the tokens.

    Args:
        counts: Of pairs; only their sums by row and by column matter.
        seed: Of the draw.
    """
    return np.stack(list(shuffled_rows(counts.sum(1), counts.sum(0), seed=seed)))


def shuffled_rows(
    rows: Int[np.ndarray, " a"], columns: Int[np.ndarray, " b"], *, seed: int
) -> Iterator[Int[np.ndarray, " b"]]:
    """The same one row at a time, for tables that need not fit in memory.

    Shuffling draws each row's tokens without replacement from what earlier rows left, so no list
    of tokens is needed.

    Args:
        rows: Tokens in each node of one side.
        columns: Tokens in each node of the other; fewer than 1e9 in all.
        seed: Of the draw.
    """
    generator, left = np.random.default_rng(seed), columns.copy()
    for row in rows.tolist():
        drawn = generator.multivariate_hypergeometric(left, row, method="marginals")
        left -= drawn
        yield drawn
