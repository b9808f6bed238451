"""Documents from any iterable of texts or rows, and which column of a table holds them."""

from collections.abc import Iterable, Iterator, Sequence

from clvq_lens.data.document import Corpus, Document, document_of
from clvq_lens.errors import DataError


class Items:
    """Documents from an iterable of texts, rows of tokens or mappings; empty items are skipped.

    Args:
        items: Read anew each time.
        column: Key of the text in a mapping; None: see `document_of`.
        corpus: What the items come from; None: they are in memory.
    """

    def __init__(
        self, items: Iterable[object], column: str | None = None, corpus: Corpus | None = None
    ) -> None:
        self._items, self._column = items, column
        self._corpus = corpus or Corpus()

    def __iter__(self) -> Iterator[Document]:
        for number, item in enumerate(self._items):
            document = document_of(item, number, self._corpus, self._column)
            if not document.is_empty:
                yield document


def text_column(columns: Sequence[str], table: str, remedy: str) -> str:
    """The column that holds the documents: the only one, or else "text" or "input_ids".

    Args:
        columns: Names of the columns.
        table: What has these columns, as the beginning of a sentence.
        remedy: A sentence that says how to choose one.

    Raises:
        DataError: If there are several columns, none of them of these names.
    """
    if len(columns) == 1:
        return columns[0]
    for column in ("text", "input_ids"):
        if column in columns:
            return column
    raise DataError(f"{table} has the columns {list(columns)}, none of them named 'text'. {remedy}")
