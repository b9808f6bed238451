"""Known labels along a flow: at which stage nodes tell them apart."""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Int
from torch import Tensor

from clvq_lens.concepts.numbered_labels import MAX_LABELS, NumberedLabels
from clvq_lens.concepts.tally import Tally, compact
from clvq_lens.evaluation.agreement import Agreement, agreement
from clvq_lens.evaluation.labels import TokenLabels
from clvq_lens.training.tokens import TokenBatch


class StageLabels:
    """Counts of (token, node, label) at every stage.

    Args:
        labels: For each document, one label for every real token.
        d_vocab: Size of the vocabulary.
        stages: Name and number of nodes of every stage but that of the tokens.
    """

    def __init__(
        self, labels: TokenLabels, d_vocab: int, stages: Sequence[tuple[str, int]]
    ) -> None:
        self._labels = NumberedLabels(labels)
        self._tallies = {name: Tally(d_vocab, size, MAX_LABELS) for name, size in stages}

    def add(
        self,
        batch: TokenBatch,
        mask: Bool[Tensor, "b pos"],
        tokens: Int[np.ndarray, " n"],
        nodes: Sequence[Int[np.ndarray, " n"]],
    ) -> None:
        """Counts a batch.

        Args:
            batch: Of texts.
            mask: Its tokens that count; the labels are those of all real ones.
            tokens: Their ids, row by row.
            nodes: Their nodes at every stage.

        Raises:
            DataError: If a document has not one label for each real token.
        """
        numbers = self._labels.of(batch, mask)
        for tally, stage in zip(self._tallies.values(), nodes, strict=True):
            tally.add(tokens, stage, numbers)

    def agreements(self, seed: int, *, complete: bool) -> Iterator[tuple[str, bool, Agreement]]:
        """Name of the stage, whether of ambiguous tokens alone, and agreement; tokens first.

        Raises:
            DataError: If there are labels for more documents than there were.
        """
        if complete:
            self._labels.check_all_used()
        for index, (name, tally) in enumerate(self._tallies.items()):
            (tokens, nodes, labels), counts = tally.entries()
            ambiguous = _labels_of_each(tokens, labels) > 1
            stages = [("token", tokens), (name, nodes)]
            for stage, here in stages if index == 0 else stages[1:]:
                for chosen in (np.ones_like(ambiguous), ambiguous):
                    table = compact(here[chosen], labels[chosen], counts[chosen])
                    found = agreement(table, seed=seed)
                    if found is not None:
                        yield stage, chosen is ambiguous, found

    def groups(self) -> dict[str, dict[int, str]]:
        """The commonest label of each node, by stage; of equally common ones the last."""
        names = self._labels.names
        found: dict[str, dict[int, str]] = {}
        for name, tally in self._tallies.items():
            (tokens, nodes, labels), counts = tally.entries()
            stages = {name: nodes} if found else {"token": tokens, name: nodes}
            for stage, here in stages.items():
                pairs, numbers = np.unique(np.stack([here, labels]), axis=1, return_inverse=True)
                sums = np.bincount(numbers.ravel(), counts)
                order = np.argsort(sums, kind="stable")  # a later entry overwrites an earlier one
                columns = (pairs[0][order].tolist(), pairs[1][order].tolist())
                found[stage] = {node: names[label] for node, label in zip(*columns, strict=True)}
        return found


def _labels_of_each(
    tokens: Int[np.ndarray, " n"], labels: Int[np.ndarray, " n"]
) -> Int[np.ndarray, " n"]:
    """How many labels the token of each entry has."""
    pairs = np.unique(np.stack([tokens, labels]), axis=1)
    distinct, n_labels = np.unique(pairs[0], return_counts=True)
    return n_labels[np.searchsorted(distinct, tokens)]
