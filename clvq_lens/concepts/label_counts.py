"""How many tokens of each code have each known label."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from torch import Tensor

from clvq_lens.concepts.profile import Profile
from clvq_lens.data.numbered_labels import MAX_LABELS, NumberedLabels
from clvq_lens.data.token_labels import TokenLabels
from clvq_lens.data.tokens import TokenBatch
from clvq_lens.stats.agreement import Agreement, agreement
from clvq_lens.stats.contingency import contingency
from clvq_lens.stats.tally import Tally


class LabelCounts:
    """Counts of known labels by code and, for comparison, by token.

    Args:
        n_codes: Size of the codebook.
        d_vocab: Size of the vocabulary.
        token_labels: For each document, one label for every real token.

    Raises:
        DataError: If they are no lists of strings.
    """

    def __init__(self, n_codes: int, d_vocab: int, token_labels: TokenLabels) -> None:
        self._labels = NumberedLabels(token_labels)
        self._by_code = Tally(n_codes, MAX_LABELS)
        self._by_token = Tally(d_vocab, MAX_LABELS)

    def add(
        self, batch: TokenBatch, counted: Bool[Tensor, "b pos"], codes: Int[np.ndarray, " n"]
    ) -> None:
        """Counts the labels of some tokens of a batch.

        Args:
            batch: With a label for every real token, outliers among them.
            counted: True on the real tokens that count.
            codes: The code of each token that counts, row by row.

        Raises:
            DataError: If labels do not match the tokens.
        """
        numbers = self._labels.of(batch, counted)
        self._by_code.add(codes, numbers)
        self._by_token.add(batch.tokens[counted].numpy(), numbers)

    def profile(self) -> Profile:
        """The distribution of labels in each code."""
        names = self._labels.names
        return Profile(self._by_code, lambda numbers: [names[number] for number in numbers])

    def agreement_of_codes(self, *, seed: int) -> Agreement | None:
        """How well codes and labels agree; None where nothing was counted."""
        return _agreement(self._by_code, seed)

    def agreement_of_tokens(self, *, seed: int) -> Agreement | None:
        """The same for token ids and labels: the baseline of codes."""
        return _agreement(self._by_token, seed)

    def state(self) -> dict[str, Any]:
        """The counts, for `restore_`."""
        return {
            "labels": self._labels.state(),
            "by_code": self._by_code.state(),
            "by_token": self._by_token.state(),
        }

    def restore_(self, state: Mapping[str, Any]) -> None:
        """Goes on with the counts of another one, which was given the same labels."""
        self._labels.restore_(state["labels"])
        self._by_code.restore_(state["by_code"])
        self._by_token.restore_(state["by_token"])

    def check_all_used(self) -> None:
        """Raises `DataError` if there are labels of documents that were not read."""
        self._labels.check_all_used()


def _agreement(tally: Tally, seed: int) -> Agreement | None:
    (rows, numbers), counts = tally.entries()
    return agreement(contingency(rows, numbers, counts=counts), seed=seed)
