"""Known labels of tokens: matched with their documents, and with words of a text."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from clvq_lens.arguments import as_list, checked_text
from clvq_lens.errors import DataError
from clvq_lens.host.vocabulary import Vocabulary
from clvq_lens.training.tokens import TokenBatch

TokenLabels = Iterable[Iterable[str]]
"""For each text, the label of every real token: special tokens and padding left out. An empty text
has an empty list."""
Span = tuple[int, int, str]
"""First character, the one after the last, and a label."""


class DocumentLabels:
    """The labels of some documents, looked up by their number.

    Args:
        labels: For each document, one label for every real token.

    Raises:
        DataError: If they are no lists of strings.
    """

    def __init__(self, labels: TokenLabels) -> None:
        self._labels = listed(labels)
        self._used = bytearray(len(self._labels))

    def of(self, document: int, n_tokens: int) -> Sequence[str]:
        """The labels of a document.

        Args:
            document: Its number: the index of its text.
            n_tokens: Its real tokens.

        Raises:
            DataError: If there is not one label for each of them.
        """
        names = self._labels[document] if document < len(self._labels) else ()
        if len(names) != n_tokens:
            raise DataError(
                f"Document {document} has {n_tokens} real tokens and {len(names)} labels. Pass one "
                f"label for each token, special tokens left out."
            )
        if names:
            self._used[document] = True
        return names

    def of_row(self, batch: TokenBatch, row: int) -> Sequence[str]:
        """The labels of the real tokens of a sequence, which may be a piece of its document.

        Args:
            batch: With the sequence.
            row: Of the sequence.

        Raises:
            DataError: If there is not one label for each real token of the document.
        """
        part, n_here = batch.part(row), int(batch.mask[row].sum())
        names = self.of(batch.documents[row], part.n_real)
        return names[part.n_before : part.n_before + n_here]

    def check_all_used(self) -> None:
        """Raises `DataError` if there are labels of documents that were not read."""
        for document, names in enumerate(self._labels):
            if names and not self._used[document]:
                raise DataError(
                    f"There are labels for {len(self._labels)} documents, but the data have no "
                    f"document {document}, or it is empty. Pass one list of labels for each text, "
                    f"and an empty one for an empty text."
                )


def listed(labels: TokenLabels) -> list[list[str]]:
    """Labels as lists, so that they can be read several times.

    Args:
        labels: For each document, one label for every real token.

    Raises:
        DataError: If they are no lists of strings.
    """
    documents = as_list("The labels", labels, "Pass a list of strings for each text.")
    return [_checked(names, number) for number, names in enumerate(documents)]


def _checked(names: Iterable[str], document: int) -> list[str]:
    names = as_list(
        f"The labels of document {document}", names, "Pass a list of strings, one a real token."
    )
    for index, name in enumerate(names):
        if not isinstance(name, str):
            raise DataError(
                f"Label {index} of document {document} is {name!r}, expected a string. Write "
                f"labels as strings, and leave no token without one."
            )
        checked_text(name, f"Label {index} of document {document}")
    return names


def token_labels(
    model: Any, texts: Iterable[str], spans: Iterable[Iterable[Span]], *, outside: str = "none"
) -> list[list[str]]:
    """The labels of words as labels of tokens, whatever the tokenizer makes of the words.

    Args:
        model: With a fast tokenizer, which knows where in a text its tokens stand.
        texts: The texts.
        spans: For each text, its labelled words as ``(start, end, label)`` in characters.
        outside: The label of a token that touches no span.

    Returns:
        For each text, the label of every real token: that of the span it shares most characters
        with.

    Raises:
        DataError: If there are not as many lists of spans as texts, one of them is no list of
            spans, or the tokenizer does not tell where its tokens stand.

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
            f"There are {len(texts)} texts and {len(spans)} lists of spans. Pass one list a text."
        )
    labelled = [_checked_spans(spans_of_text, number) for number, spans_of_text in enumerate(spans)]
    offsets = Vocabulary(model).offsets(texts)
    return [
        _labels_at(tokens, spans_of_text, outside)
        for tokens, spans_of_text in zip(offsets, labelled, strict=True)
    ]


def _texts(texts: Iterable[str]) -> list[str]:
    texts = as_list("The texts", texts, "Pass a list: token_labels(model, [text], ...).")
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise DataError(f"Text {number} is {type(text).__name__}. Pass strings.")
        checked_text(text, f"Text {number}")
    return texts


def _checked_spans(spans: Any, number: int) -> list[Span]:
    spans = as_list(f"The spans of text {number}", spans, "Pass a list of (start, end, label).")
    for span in spans:
        is_span = isinstance(span, tuple | list) and len(span) == 3
        if not is_span or not all(isinstance(end, int | np.integer) for end in span[:2]):
            raise DataError(
                f"A span of text {number} is {span!r}. Pass (start, end, label), in characters."
            )
        if not isinstance(span[2], str):
            raise DataError(
                f"The label of a span of text {number} is {span[2]!r}. Write labels as strings."
            )
    return spans


def _labels_at(tokens: list[tuple[int, int]], spans: list[Span], outside: str) -> list[str]:
    """The label of each token of a text, in one walk along tokens and spans."""
    waiting = sorted(spans, key=lambda span: span[0])[::-1]  # the next one last
    near: list[Span] = []  # spans that the current token, or a later one, may touch
    labels = []
    for start, end in tokens:
        while waiting and waiting[-1][0] < end:
            near.append(waiting.pop())
        near = [span for span in near if span[1] > start]
        labels.append(_label_at(start, end, near, outside))
    return labels


def _label_at(start: int, end: int, spans: list[Span], outside: str) -> str:
    shared = [(min(end, to) - max(start, at), label) for at, to, label in spans]
    most, label = max(shared, key=lambda pair: pair[0], default=(0, outside))
    return label if most > 0 else outside
