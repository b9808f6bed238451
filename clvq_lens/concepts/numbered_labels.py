"""Known labels of the tokens of batches, as numbers that can be counted."""

import numpy as np
from jaxtyping import Bool, Int
from torch import Tensor

from clvq_lens.evaluation.labels import DocumentLabels, TokenLabels
from clvq_lens.training.tokens import TokenBatch

MAX_LABELS = 2**20


class NumberedLabels:
    """Labels, numbered as they come.

    Args:
        labels: For each document, one label for every real token.
    """

    def __init__(self, labels: TokenLabels) -> None:
        self._labels = DocumentLabels(labels)
        self._numbers: dict[str, int] = {}

    @property
    def names(self) -> list[str]:
        """The label of each number."""
        return list(self._numbers)

    def of(self, batch: TokenBatch, mask: Bool[Tensor, "b pos"]) -> Int[np.ndarray, " n"]:
        """The labels of some real tokens of a batch, row by row.

        Args:
            batch: With a label for every real token.
            mask: True on those of them that count.

        Raises:
            DataError: If a document has not one label for each of its real tokens.
        """
        names: list[str] = []
        for row in range(len(batch.documents)):
            names += self._labels.of_row(batch, row)
        numbers = [self._numbers.setdefault(name, len(self._numbers)) for name in names]
        return np.array(numbers, dtype=np.int64)[mask[batch.mask].numpy()]

    def check_all_used(self) -> None:
        """Raises `DataError` if there are labels of documents that were not read."""
        self._labels.check_all_used()
