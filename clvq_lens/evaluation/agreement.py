"""Agreement of codes with known labels, beside labels shuffled over the same tokens."""

from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from jaxtyping import Int
from scipy.stats import random_table

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

    Such a table is distributed as a random one with the same sums of rows and columns, so no list
    of tokens is needed (Patefield 1981, algorithm AS 159).

    Args:
        counts: With no empty row or column.
        seed: Of the draw.
    """
    tables = random_table(counts.sum(1), counts.sum(0))
    return tables.rvs(method="patefield", random_state=seed).astype(np.int64)
