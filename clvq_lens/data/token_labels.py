"""Known labels of tokens: matched with their documents, and with words of a text."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from clvq_lens.arguments import as_list, checked_text
from clvq_lens.data.tokens import TokenBatch
from clvq_lens.errors import DataError
from clvq_lens.host.vocabulary import Vocabulary

TokenLabels = Iterable[Iterable[str]]
"""For each text, the label of every real token: special tokens and padding left out. An empty text
has an empty list."""
Span = tuple[int, int, str]
"""First character, the one after the last, and a label."""


class DocumentLabels:
    """The labels of some documents, looked up by their number.

    Args:
        token_labels: For each document, one label for every real token.

    Raises:
        DataError: If the labels are not lists of strings.
    """

    def __init__(self, token_labels: TokenLabels) -> None:
        self._labels = listed(token_labels)
        self._used = bytearray(len(self._labels))  # one byte a document: there may be millions

    def of(self, document: int, n_tokens: int) -> Sequence[str]:
        """The labels of a document.

        Args:
            document: Number of the document: the index of its text.
            n_tokens: Real tokens of the document.

        Raises:
            DataError: If there is not one label for each token.
        """
        labels = self._labels[document] if document < len(self._labels) else ()
        if len(labels) != n_tokens:
            raise DataError(
                f"Document {document} has {n_tokens} real tokens and {len(labels)} labels. Pass "
                f"one label for each token, special tokens left out."
            )
        if labels:
            self._used[document] = True
        return labels

    def of_row(self, batch: TokenBatch, row: int) -> Sequence[str]:
        """The labels of the real tokens of a sequence, which may be a piece of its document.

        Args:
            batch: The batch with the sequence.
            row: Row of the sequence.

        Raises:
            DataError: If there is not one label for each real token of the document.
        """
        part, n_here = batch.part(row), int(batch.mask[row].sum())
        labels = self.of(batch.documents[row], part.n_real)
        return labels[part.n_before : part.n_before + n_here]

    @property
    def used(self) -> UInt8[Tensor, " document"]:
        """Which documents were looked up, as 0 and 1."""
        return torch.tensor(list(self._used), dtype=torch.uint8)

    def use_(self, used: UInt8[Tensor, " document"]) -> None:
        """Counts documents as looked up."""
        self._used = bytearray(used.tolist())

    def check_all_used(self) -> None:
        """Raises `DataError` if there are labels of documents that were not read."""
        for document, labels in enumerate(self._labels):
            if labels and not self._used[document]:  # an empty text is never read
                raise DataError(
                    f"There are labels for {len(self._labels)} documents, but the data have no "
                    f"document {document}, or it is empty. Pass one list of labels for each text, "
                    f"and an empty one for an empty text."
                )


def listed(token_labels: TokenLabels) -> list[list[str]]:
    """Labels as lists, so that they can be read several times.

    Args:
        token_labels: For each document, one label for every real token.

    Raises:
        DataError: If the labels are not lists of strings.
    """
    documents = as_list("The labels", token_labels, "Pass a list of strings for each text.")
    return [_checked(labels, number) for number, labels in enumerate(documents)]


def _checked(labels: Iterable[str], document: int) -> list[str]:
    remedy = "Pass a list of strings, one for each real token."
    labels = as_list(f"The labels of document {document}", labels, remedy)
    for index, label in enumerate(labels):
        if not isinstance(label, str):
            raise DataError(
                f"Label {index} of document {document} is {label!r}, expected a string. Write "
                f"labels as strings, and leave no token without one."
            )
        checked_text(label, f"Label {index} of document {document}")
    return labels


def token_labels(
    model: Any, texts: Iterable[str], spans: Iterable[Iterable[Span]], *, outside: str = "none"
) -> list[list[str]]:
    """The labels of words as labels of tokens, whatever the tokenizer makes of the words.

    Args:
        model: A model with a fast tokenizer, which tells where in a text each token stands.
        texts: The texts.
        spans: For each text, its labeled words as ``(start, end, label)`` in characters.
        outside: The label of a token that touches no span.

    Returns:
        For each text, the label of every real token: the label of the span that shares most
        characters with it.

    Raises:
        DataError: If texts and lists of spans differ in number, an entry is not a list of spans,
            or the tokenizer does not tell where its tokens stand.

    Example:
        >>> token_labels(model, ["A cat."], [[(0, 1, "DET"), (2, 5, "NOUN")]])  # doctest: +SKIP
        [['DET', 'NOUN', 'none']]
    """
    if not hasattr(model, "cfg"):
        raise DataError(f"The model is {type(model).__name__}. Pass a model of TransformerLens.")
    texts = _texts(texts)
    spans = as_list("The spans", spans, "Pass a list of (start, end, label) for each text.")
    if len(spans) != len(texts):
        raise DataError(
            f"There are {len(texts)} texts and {len(spans)} lists of spans. Pass one list for "
            f"each text."
        )
    # All are checked before the tokenizer runs, so that a mistake shows at once.
    checked = [_checked_spans(spans_of_text, number) for number, spans_of_text in enumerate(spans)]
    labels: list[list[str]] = []
    for tokens, spans_of_text in zip(Vocabulary(model).offsets(texts), checked, strict=True):
        labels.append(_labels_of_text(tokens, spans_of_text, outside))
    return labels


def _texts(texts: Iterable[str]) -> list[str]:
    texts = as_list("The texts", texts, "Pass a list: token_labels(model, [text], ...).")
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise DataError(f"Text {number} is {type(text).__name__}. Pass strings.")
        checked_text(text, f"Text {number}")
    return texts


def _checked_spans(spans: object, number: int) -> list[Span]:
    spans = as_list(f"The spans of text {number}", spans, "Pass a list of (start, end, label).")
    for span in spans:
        is_triple = isinstance(span, tuple | list) and len(span) == 3
        if not is_triple or not all(isinstance(end, int | np.integer) for end in span[:2]):
            raise DataError(
                f"A span of text {number} is {span!r}. Pass (start, end, label), in characters."
            )
        if not isinstance(span[2], str):
            raise DataError(
                f"The label of a span of text {number} is {span[2]!r}. Write labels as strings."
            )
    return spans


def _labels_of_text(tokens: list[tuple[int, int]], spans: list[Span], outside: str) -> list[str]:
    """The label of each token of a text, in one walk along tokens and spans."""
    # Both sorted, so that the time is linear in the length of the text.
    waiting = sorted(spans, key=lambda span: span[0])[::-1]  # the next one last
    near: list[Span] = []  # spans that the current token, or a later one, may touch
    labels: list[str] = []
    for start, end in tokens:
        while waiting and waiting[-1][0] < end:
            near.append(waiting.pop())
        near = [span for span in near if span[1] > start]
        labels.append(_label_of_token(start, end, near, outside))
    return labels


def _label_of_token(start: int, end: int, spans: list[Span], outside: str) -> str:
    """The label of the span that shares most characters; of equal ones, the first."""
    most_shared, label_of_most = 0, outside
    for first, stop, label in spans:
        n_shared = min(end, stop) - max(start, first)
        if n_shared > most_shared:
            most_shared, label_of_most = n_shared, label
    return label_of_most
