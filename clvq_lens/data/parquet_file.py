"""Documents in the rows of a Parquet file, read a few rows at a time."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from clvq_lens.data.document import Corpus
from clvq_lens.data.items import Items, text_column
from clvq_lens.errors import DataError

_BATCH_ROWS = 256
# Without both, a whole row group is read at once, which may be as large as the file.
_STREAMED = {"buffer_size": 2**20, "pre_buffer": False}


def open_parquet(path: Path) -> Items:
    """The documents of a .parquet file: its column "text", its only one, or "input_ids".

    Args:
        path: Path of the file.

    Raises:
        DataError: If it is damaged, or has several columns and none of these names.
    """
    rows = _ParquetRows(path)
    return Items(rows, rows.column, Corpus(path, unit="row"))


class _ParquetRows:
    """The rows of a file as mappings, with the column of the documents and their masks alone."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._opened() as file:
            names = file.schema_arrow.names
        self.column = text_column(
            names,
            str(path),
            f"Rename one, or pass one of them as a list: pandas.read_parquet({str(path)!r})"
            f"['...'].tolist(). 'hf:{path.parent}:train:COLUMN' reads a column of all files in "
            f"the folder.",
        )
        self._columns = [self.column]
        if self.column == "input_ids" and "attention_mask" in names:
            self._columns.append("attention_mask")

    def __iter__(self) -> Iterator[dict[str, Any]]:
        try:
            with self._opened() as file:
                for batch in file.iter_batches(_BATCH_ROWS, columns=self._columns):
                    yield from batch.to_pylist()
        except (OSError, pa.ArrowException) as error:
            raise self._unreadable(error) from error

    def _opened(self) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(self._path, **_STREAMED)
        except (OSError, pa.ArrowException) as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> DataError:
        return DataError(f"{self._path} cannot be read as Parquet: {error} Check the file.")
