"""Known labels along a flow: at which stage nodes tell them apart."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int
from torch import Tensor

from clvq_lens.data.numbered_labels import MAX_LABELS, NumberedLabels
from clvq_lens.data.token_labels import TokenLabels
from clvq_lens.data.tokens import TokenBatch
from clvq_lens.stats.agreement import Agreement, agreement
from clvq_lens.stats.contingency import contingency
from clvq_lens.stats.tally import Tally

WhichTokens = Literal["all", "ambiguous"]


@dataclass(frozen=True)
class StageAgreement:
    """How well one stage agrees with known labels.

    Attributes:
        stage: Its name.
        tokens: "all", or "ambiguous": those whose token id occurs with more than one label.
        agreement: Agreement with the labels, beside shuffled ones.
    """

    stage: str
    tokens: WhichTokens
    agreement: Agreement


class StageLabels:
    """Counts of (token, node, label) at every stage.

    Args:
        token_labels: For each document, one label for every real token.
        d_vocab: Size of the vocabulary.
        n_nodes: Possible nodes of every stage but that of the tokens, by the stage's name.
    """

    def __init__(self, token_labels: TokenLabels, d_vocab: int, n_nodes: Mapping[str, int]) -> None:
        self._labels = NumberedLabels(token_labels)
        self._tallies: dict[str, Tally] = {}
        for stage, size in n_nodes.items():
            self._tallies[stage] = Tally(d_vocab, size, MAX_LABELS)

    def add(
        self,
        batch: TokenBatch,
        mask: Bool[Tensor, "b pos"],
        tokens: Int[np.ndarray, " n"],
        nodes: Sequence[Int[np.ndarray, " n"]],
    ) -> None:
        """Counts a batch.

        Args:
            batch: The texts.
            mask: True on the tokens that count; the labels are those of all real ones.
            tokens: Ids of the tokens that count, row by row.
            nodes: Their nodes at every stage.

        Raises:
            DataError: If a document has not one label for each real token.
        """
        numbers = self._labels.of(batch, mask)
        for tally, here in zip(self._tallies.values(), nodes, strict=True):
            tally.add(tokens, here, numbers)

    def agreements(self, seed: int, *, complete: bool) -> tuple[StageAgreement, ...]:
        """Agreement of every stage, that of token identity first.

        Args:
            seed: Random seed for the shuffled labels.
            complete: Whether all documents were read; only then must all labels have been used.

        Raises:
            DataError: If there are labels for more documents than there were.
        """
        if complete:
            self._labels.check_all_used()
        rows: list[StageAgreement] = []
        for index, (name, tally) in enumerate(self._tallies.items()):
            (tokens, nodes, labels), counts = tally.entries()
            ambiguous = _labels_of_each(tokens, labels) > 1
            if index == 0:  # every tally holds the same tokens, so the first can tell of them
                rows += _agreements_of("token", tokens, labels, counts, ambiguous, seed)
            rows += _agreements_of(name, nodes, labels, counts, ambiguous, seed)
        return tuple(rows)

    def groups(self) -> dict[str, dict[int, str]]:
        """The commonest label of each node, by stage; of equally common ones the last."""
        groups: dict[str, dict[int, str]] = {}
        for index, (name, tally) in enumerate(self._tallies.items()):
            (tokens, nodes, labels), counts = tally.entries()
            if index == 0:
                groups["token"] = self._commonest(tokens, labels, counts)
            groups[name] = self._commonest(nodes, labels, counts)
        return groups

    def _commonest(
        self,
        nodes: Int[np.ndarray, " n"],
        labels: Int[np.ndarray, " n"],
        counts: Int[np.ndarray, " n"],
    ) -> dict[int, str]:
        names = self._labels.names
        pairs, numbers = np.unique(np.stack([nodes, labels]), axis=1, return_inverse=True)
        sums = np.bincount(numbers.ravel(), counts)
        commonest: dict[int, str] = {}
        # From the rarest pair to the commonest: a later entry overwrites an earlier one.
        for index in np.argsort(sums, kind="stable"):
            node, label = pairs[:, index].tolist()
            commonest[node] = names[label]
        return commonest


def _agreements_of(
    stage: str,
    nodes: Int[np.ndarray, " n"],
    labels: Int[np.ndarray, " n"],
    counts: Int[np.ndarray, " n"],
    ambiguous: Bool[np.ndarray, " n"],
    seed: int,
) -> Iterator[StageAgreement]:
    """Agreement over all tokens and over ambiguous ones, as far as there are any."""
    choices: dict[WhichTokens, np.ndarray] = {
        "all": np.ones_like(ambiguous),
        "ambiguous": ambiguous,
    }
    for which, chosen in choices.items():
        table = contingency(nodes[chosen], labels[chosen], counts=counts[chosen])
        with_labels = agreement(table, seed=seed)
        if with_labels is not None:
            yield StageAgreement(stage, which, with_labels)


def _labels_of_each(
    tokens: Int[np.ndarray, " n"], labels: Int[np.ndarray, " n"]
) -> Int[np.ndarray, " n"]:
    """How many labels the token of each entry has."""
    # An entry stands for one node too, so a pair of token and label may occur in several.
    pairs = np.unique(np.stack([tokens, labels]), axis=1)
    distinct, n_labels = np.unique(pairs[0], return_counts=True)
    return n_labels[np.searchsorted(distinct, tokens)]
