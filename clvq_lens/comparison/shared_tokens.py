"""The same tokens under several lenses."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Int

from clvq_lens.config import LongTexts
from clvq_lens.data.documents import Data, open_documents
from clvq_lens.data.token_labels import DocumentLabels, TokenLabels
from clvq_lens.data.tokens import require_real
from clvq_lens.errors import DataError
from clvq_lens.lens import Lens


class SharedTokens:
    """The real tokens of some data, document after document, and the codes that lenses give them.

    Outliers are among them: lenses may differ in what they leave out, and these tokens are shared.

    Args:
        data: Documents that fit in memory; a generator is read once.
        long_texts: What to do with a text beyond the context.
    """

    def __init__(self, data: Data, *, long_texts: LongTexts) -> None:
        # Every lens reads the data, and a generator is empty after the first one.
        self._data = open_documents(data) if isinstance(data, Iterator) else data
        self._long_texts: LongTexts = long_texts
        self._ids: torch.Tensor | None = None
        self._documents = np.empty(0, dtype=np.int64)

    def codes(self, lens: Lens) -> Int[np.ndarray, " n"]:
        """The code of every token.

        Raises:
            EmptyCorpusError: If the data hold no real token.
            DataError: If an earlier lens made other tokens of the data.
        """
        encoding = lens.encode(self._data, long_texts=self._long_texts, progress=False)
        ids = encoding.tokens[encoding.real]
        require_real(len(ids))
        if self._ids is None:
            self._ids = ids
            lengths = encoding.real.sum(1).numpy()
            self._documents = np.repeat(np.array(encoding.documents, dtype=np.int64), lengths)
        # Codes can only be compared where each of them stands for the same piece of text.
        if not torch.equal(self._ids, ids):
            raise DataError(
                f"{lens.name!r} makes other tokens of these data than the lenses before it. "
                f"Compare lenses on models with the same tokenizer."
            )
        return encoding.codes[encoding.real].numpy()

    @property
    def ids(self) -> Int[np.ndarray, " n"]:
        """The id of every token, once a lens has encoded them."""
        return np.empty(0, dtype=np.int64) if self._ids is None else self._ids.numpy()

    @property
    def documents(self) -> Int[np.ndarray, " n"]:
        """The running number of every token's document."""
        return self._documents

    def labels(self, token_labels: TokenLabels) -> list[str]:
        """The label of every token.

        Raises:
            DataError: If there is not exactly one for each real token of each document.
        """
        given = DocumentLabels(token_labels)
        # The pieces of a long text are rows of their own, but have one list of labels.
        documents, lengths = np.unique(self._documents, return_counts=True)
        labels: list[str] = []
        for document, n_tokens in zip(documents.tolist(), lengths.tolist(), strict=True):
            labels += given.of(document, n_tokens)
        given.check_all_used()
        return labels
