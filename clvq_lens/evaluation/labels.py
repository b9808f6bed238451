"""Known labels of tokens: matched with their documents, and with words of a text."""

from collections.abc import Iterable, Sequence
from typing import Any

from clvq_lens.errors import DataError
from clvq_lens.host.vocabulary import Vocabulary

TokenLabels = Sequence[Sequence[str]]
"""For each document, the label of every real token: special tokens and padding left out."""
Span = tuple[int, int, str]
"""First character, the one after the last, and a label."""


class DocumentLabels:
    """The labels of some documents, looked up by running number.

    Args:
        labels: For each document, one label for every real token.
    """

    def __init__(self, labels: TokenLabels) -> None:
        self._labels = labels

    def of(self, document: int, n_tokens: int) -> Sequence[str]:
        """The labels of a document.

        Raises:
            DataError: If there is not one for each of its real tokens.
        """
        names = self._labels[document] if document < len(self._labels) else ()
        if len(names) != n_tokens:
            raise DataError(
                f"Document {document} has {n_tokens} real tokens and {len(names)} labels. Pass one "
                f"label for each token, special tokens left out."
            )
        return names

    def check_number(self, n_documents: int) -> None:
        """Raises `DataError` unless all labels were used."""
        if len(self._labels) != n_documents:
            raise DataError(
                f"There are labels for {len(self._labels)} documents, but the data have "
                f"{n_documents}. Pass one list of labels for each document that is not empty."
            )


def token_labels(
    model: Any, texts: Sequence[str], spans: Sequence[Iterable[Span]], *, outside: str = "none"
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
        DataError: If there are not as many lists of spans as texts, or the tokenizer does not tell
            where its tokens stand.

    Example:
        >>> token_labels(model, ["A cat."], [[(0, 1, "DET"), (2, 5, "NOUN")]])  # doctest: +SKIP
        [['DET', 'NOUN', 'none']]
    """
    if len(spans) != len(texts):
        raise DataError(
            f"There are {len(texts)} texts and {len(spans)} lists of spans. Pass one list a text."
        )
    offsets = Vocabulary(model).offsets(texts)
    return [
        [_label_at(start, end, labelled, outside) for start, end in tokens]
        for tokens, labelled in zip(offsets, map(list, spans), strict=True)
    ]


def _label_at(start: int, end: int, spans: list[Span], outside: str) -> str:
    shared = [(min(end, to) - max(start, at), label) for at, to, label in spans]
    most, label = max(shared, key=lambda pair: pair[0], default=(0, outside))
    return label if most > 0 else outside
