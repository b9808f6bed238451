"""Agreement of codes with known labels, beside labels shuffled over the same tokens."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from jaxtyping import Int

from clvq_lens.showing import Shown
from clvq_lens.stats.metrics import nmi_of_counts, purity_of_counts
from clvq_lens.stats.partitions import adjusted_mutual_information


@dataclass(frozen=True, repr=False)
class Agreement(Shown):
    """How well codes and labels of the same tokens agree.

    Attributes:
        n_tokens: Labeled tokens.
        n_codes: Codes in use among them.
        n_labels: Distinct labels.
        ami: Adjusted mutual information: 0 on average by chance, whatever the number of codes.
        nmi: Normalized mutual information, in [0, 1]; more codes alone raise it.
        nmi_shuffled: The same with the labels shuffled over the tokens: the baseline.
        purity: Fraction of tokens with the commonest label of their code.
        purity_shuffled: The same with the labels shuffled.
    """

    n_tokens: int
    n_codes: int
    n_labels: int
    ami: float
    nmi: float
    nmi_shuffled: float
    purity: float
    purity_shuffled: float

    def headline(self) -> str:
        """Sizes, AMI, and purity beside its baseline."""
        return (
            f"{self.n_codes} codes, {self.n_labels} labels, {self.n_tokens:,} tokens: AMI "
            f"{self.ami:.3f}, purity {self.purity:.3f} (shuffled {self.purity_shuffled:.3f})"
        )

    def preview(self) -> pd.DataFrame:
        """One row."""
        return self.frame()

    def frame(self) -> pd.DataFrame:
        """One row."""
        return pd.DataFrame([asdict(self)])


def agreement(counts: Int[np.ndarray, "codes labels"], *, seed: int = 0) -> Agreement | None:
    """Agreement from counts of (code, label); None if nothing was counted.

    Args:
        counts: Tokens with each code and label.
        seed: Random seed for the shuffled labels.
    """
    # Unused codes and labels are neither clusters nor errors.
    counts = counts[counts.sum(1) > 0][:, counts.sum(0) > 0]
    if counts.size == 0:
        return None
    control = shuffled(counts, seed=seed)
    return Agreement(
        n_tokens=int(counts.sum()),
        n_codes=counts.shape[0],
        n_labels=counts.shape[1],
        ami=adjusted_mutual_information(counts),
        nmi=nmi_of_counts(counts),
        nmi_shuffled=nmi_of_counts(control),
        purity=purity_of_counts(counts),
        purity_shuffled=purity_of_counts(control),
    )


def shuffled(counts: Int[np.ndarray, "a b"], *, seed: int) -> Int[np.ndarray, "a b"]:
    """Counts of pairs as they would be if one side were shuffled over the tokens.

    Args:
        counts: Tokens with each pair; only their sums by row and by column matter.
        seed: Random seed for the shuffling.
    """
    return np.stack(list(shuffled_rows(counts.sum(1), counts.sum(0), seed=seed)))


def shuffled_rows(
    rows: Int[np.ndarray, " a"], columns: Int[np.ndarray, " b"], *, seed: int
) -> Iterator[Int[np.ndarray, " b"]]:
    """`shuffled` counts one row at a time, for tables that need not fit in memory.

    Shuffling draws each row's tokens without replacement from what earlier rows left, so no list
    of tokens is needed.

    Args:
        rows: Tokens of each row.
        columns: Tokens of each column; fewer than 1e9 in all.
        seed: Random seed for the shuffling.
    """
    generator, left = np.random.default_rng(seed), columns.copy()
    for row in rows.tolist():
        # "marginals" takes memory for the columns, and the default for every token.
        drawn = generator.multivariate_hypergeometric(left, row, method="marginals")
        left -= drawn
        yield drawn
