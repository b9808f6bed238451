"""Known labels of the tokens of batches, as numbers that can be counted."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from torch import Tensor

from clvq_lens.data.token_labels import DocumentLabels, TokenLabels
from clvq_lens.data.tokens import TokenBatch

MAX_LABELS = 2**20
"""Size of the axis of labels in a table of counts."""


class NumberedLabels:
    """Labels, numbered in the order in which they first occur.

    Args:
        token_labels: For each document, one label for every real token.
    """

    def __init__(self, token_labels: TokenLabels) -> None:
        self._labels = DocumentLabels(token_labels)
        self._numbers: dict[str, int] = {}

    @property
    def names(self) -> list[str]:
        """The label of each number."""
        return list(self._numbers)

    def of(self, batch: TokenBatch, mask: Bool[Tensor, "b pos"]) -> Int[np.ndarray, " n"]:
        """The labels of some real tokens of a batch, row by row.

        Args:
            batch: The tokens, each real one with a label.
            mask: True on the real tokens that count.

        Raises:
            DataError: If the labels of a document are more or fewer than its real tokens.
        """
        numbers: list[int] = []
        for row in range(len(batch.documents)):
            for label in self._labels.of_row(batch, row):
                numbers.append(self._numbers.setdefault(label, len(self._numbers)))
        # Labels belong to all real tokens, outliers too, so the mask chooses only afterwards.
        return np.array(numbers, dtype=np.int64)[mask[batch.mask].numpy()]

    def state(self) -> dict[str, Any]:
        """Which labels have numbers, and which documents were looked up; for `restore_`."""
        return {"names": self.names, "used": self._labels.used}

    def restore_(self, state: Mapping[str, Any]) -> None:
        """Goes on with the numbers of another one, which was given the same labels."""
        self._numbers = {name: number for number, name in enumerate(state["names"])}
        self._labels.use_(state["used"])

    def check_all_used(self) -> None:
        """Raises `DataError` if there are labels of documents that were not read."""
        self._labels.check_all_used()
