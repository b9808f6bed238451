"""Known labels of tokens: matched with their documents, and with words of a text."""

from collections.abc import Sequence

from clvq_lens.errors import DataError

TokenLabels = Sequence[Sequence[str]]
"""For each document, the label of every real token: special tokens and padding left out."""


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
