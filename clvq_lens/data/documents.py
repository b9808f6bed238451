"""Documents: texts or rows of tokens from whatever the user has, read again as often as needed."""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from clvq_lens.data.document import Corpus, Document, attended_range, integer_rows
from clvq_lens.data.items import Items, text_column
from clvq_lens.data.named_dataset import names_dataset, open_dataset
from clvq_lens.data.parquet_file import open_parquet
from clvq_lens.data.text_files import (
    FILES,
    SUFFIXES,
    Spool,
    TextFile,
    check_file_of_texts,
    suffix_of,
)
from clvq_lens.errors import DataError, EmptyCorpusError

Data = str | Path | Tensor | Iterable[object]
"""A text, texts, a path to a .txt, .jsonl, .txt.gz, .jsonl.gz or .parquet file, a Hugging Face
dataset or the name of one, such as "hf:stanfordnlp/imdb:train:text"; tokens [row, pos], padded left
or right; or what a tokenizer returns: a mapping with input_ids and attention_mask. Without a mask,
padding is recognized by the model's padding token."""

_OTHER_SUFFIXES = (
    *(".csv", ".tsv", ".json", ".ndjson", ".arrow", ".feather", ".xlsx", ".html"),
    *(".xml", ".md", ".pdf", ".gz", ".bz2", ".xz", ".zst", ".zip", ".tar", ".pt", ".npy", ".pkl"),
)


@runtime_checkable
class Documents(Protocol):
    """Something that yields the same documents every time it is iterated over."""

    def __iter__(self) -> Iterator[Document]:
        """The documents, from the first."""
        ...


def open_documents(data: Data) -> Documents:
    """Documents from any form that data may have.

    Args:
        data: A list of texts; a path to a .txt file (a document per line), a .jsonl file (a
            string or an object with "text" per line), one of them compressed as .gz, or a .parquet
            file with a text column; a Hugging Face dataset with a text column, or its name (see
            `DatasetName`); or any other iterable of texts. What can be read only once, or comes
            through the network, is copied to a temporary file, as far as it is read. Or tokens: a
            tensor [row, pos], rows of token ids, or a mapping with input_ids and attention_mask.

    Raises:
        DataError: If data has none of these forms, or cannot be read.
        EmptyCorpusError: If data hold no document.
        HubError: If a data set on the Hub cannot be reached.
    """
    documents = _open(data)
    if next(iter(documents), None) is None:
        raise EmptyCorpusError("The data hold no text at all. Pass at least one non-empty text.")
    return documents


def _open(data: Data) -> Documents:
    if isinstance(data, TextFile | Spool | TokenRows | Items):
        return data  # somebody has opened them before
    if isinstance(data, Path):
        return _open_file(data)
    if isinstance(data, str):
        return _open_string(data)
    if isinstance(data, np.ndarray):
        data = _array(data)
    if isinstance(data, Tensor):
        return TokenRows(data)
    if isinstance(data, Mapping) and "input_ids" in data:
        return _tokenized(data)
    if getattr(data, "closed", False) is True:
        raise DataError("The data are a closed file. Pass its path, or open it again.")
    items, column = _iterable(data), None
    column_names = getattr(items, "column_names", None)
    if column_names is not None:  # a streamed dataset may not know them
        remedy = "Choose one: dataset.select_columns('...')."
        column = text_column(list(column_names), "The dataset", remedy)
    # What is its own iterator is gone after one reading, and a fit reads its data many times.
    return Spool(items, column) if iter(items) is items else Items(items, column)


def _open_string(data: str) -> Documents:
    """The documents of a file or a data set that a string names, or the string as a text."""
    if names_dataset(data):
        return open_dataset(data)
    return _open_file(Path(data)) if _is_path(data) else Items([data])


def _open_file(path: Path) -> Documents:
    check_file_of_texts(path)
    return open_parquet(path) if suffix_of(path) == ".parquet" else TextFile(path)


def _iterable(data: object) -> Iterable[object]:
    """The data themselves.

    Raises:
        DataError: If they cannot be iterated over, or would give something else than documents.
    """
    if isinstance(data, Mapping):
        raise DataError(
            f"The data are a mapping with the keys {sorted(map(str, data))}. "
            f"Pass one of its parts, such as data['train']."
        )
    if isinstance(data, pd.DataFrame):  # iterating over one gives the names of its columns
        raise DataError(
            f"The data are a table with the columns {list(map(str, data.columns))}. "
            f"Pass one of them, such as data['text']."
        )
    if isinstance(data, set | frozenset):
        raise DataError(
            "The data are a set, whose order differs from one run of Python to the next. "
            "Pass a list, such as sorted(texts)."
        )
    if isinstance(data, bytes | bytearray):
        raise DataError("The data are bytes. Decode them: data.decode('utf-8').")
    if not isinstance(data, Iterable):
        raise DataError(
            f"Cannot read texts from {type(data).__name__}. Pass a list of strings, a tensor of "
            f"tokens, a path to a {FILES} file, or a dataset."
        )
    return data


def _is_path(text: str) -> bool:
    """Whether a string names a file that can be read.

    Raises:
        DataError: If it names another file or a folder, so that it is hardly meant as a text.
    """
    # A text of punctuation alone is a text, even if a folder has that name, such as "..".
    if "\n" in text or not any(character.isalnum() for character in text):
        return False
    if suffix_of(text) in SUFFIXES:
        return True
    suffix = Path(text).suffix.lower()
    if suffix in _OTHER_SUFFIXES:
        raise DataError(
            f"{text!r} looks like the path of a {suffix} file. Pass the path of a {FILES} file, or "
            f"the texts of this one as a list; if it is a text, pass [{text!r}]."
        )
    if os.path.exists(text):  # a path too long for the system does not exist
        raise DataError(
            f"{text!r} is the name of a file or folder. Pass the path of a {FILES} file, or "
            f"'hf:{text}' for a folder of them; if it is a text, pass [{text!r}]."
        )
    return False


def _array(data: np.ndarray) -> Tensor | list[object]:
    """Texts as a list, token ids as a tensor."""
    if data.dtype.kind in "iu":
        return torch.from_numpy(data.astype(np.int64))  # torch has few unsigned types
    if data.ndim != 1:
        raise DataError(
            f"The data are an array of {data.dtype} and shape {list(data.shape)}. Pass an array of "
            f"strings with one axis, or token ids of shape [row, position]."
        )
    return data.tolist()


def _tokenized(data: Mapping[Any, Any]) -> Documents:
    """The rows of what a Hugging Face tokenizer returns."""
    token_types = data.get("token_type_ids")
    if token_types is not None and any(np.any(np.asarray(row)) for row in token_types):
        raise DataError(
            "The token_type_ids mark second sentences, which are not passed to the model here. "
            "Pass single texts."
        )
    ids, mask = data["input_ids"], data.get("attention_mask")
    if isinstance(ids, str) or not isinstance(ids, Tensor | np.ndarray | list | tuple):
        raise DataError(
            f"The input_ids are {type(ids).__name__}. Pass a tensor or lists of token ids, as a "
            f"tokenizer returns them."
        )
    if mask is not None and len(mask) != len(ids):
        raise DataError(
            f"There are {len(ids)} rows of input_ids and {len(mask)} of attention_mask. Pass a "
            f"mask of the same shape."
        )
    if isinstance(ids, Tensor | np.ndarray):
        return TokenRows(torch.as_tensor(ids), None if mask is None else torch.as_tensor(mask))
    if len(ids) and isinstance(ids[0], int):  # a tokenizer called with one text
        ids, mask = [ids], None if mask is None else [mask]
    if mask is None:
        return Items([{"input_ids": row} for row in ids])
    rows: list[dict[str, object]] = []
    for row, row_mask in zip(ids, mask, strict=True):
        rows.append({"input_ids": row, "attention_mask": row_mask})
    return Items(rows)


class TokenRows:
    """The rows of a tensor of tokens.

    Args:
        tokens: Integers [row, pos], or [pos].
        mask: 1 on tokens and 0 on padding before and after them; None: padding is recognized by the
            model's padding token.

    Raises:
        DataError: If tokens or mask are not rows of integers, differ in shape, or the mask has a
            hole.
    """

    def __init__(self, tokens: Tensor, mask: Tensor | None = None) -> None:
        self.tokens = integer_rows(tokens)
        self._corpus = Corpus()
        self._ranges: list[tuple[int, int]] | None = None
        if mask is None:
            return
        mask = integer_rows(mask.long() if mask.dtype == torch.bool else mask, "masks")
        if mask.shape != self.tokens.shape:
            raise DataError(
                f"The mask has shape {list(mask.shape)} and the tokens {list(self.tokens.shape)}. "
                f"Pass a mask of the same shape."
            )
        self._ranges = []
        for number, row in enumerate(self.tokens):
            name = self._corpus.name_of(number)
            self._ranges.append(attended_range(mask[number], row, name))

    def __iter__(self) -> Iterator[Document]:
        # A tensor without columns holds no document; a row of padding alone is one, and keeps its
        # number.
        for number, row in enumerate(self.tokens if self.tokens.numel() else []):
            if self._ranges is None:
                yield Document(row, number, corpus=self._corpus)
            else:
                start, stop = self._ranges[number]
                yield Document(row[start:stop], number, start, is_padded=False, corpus=self._corpus)

    @property
    def ids(self) -> Int[Tensor, " n"]:
        """All token ids; without those on padding, if there is a mask."""
        if self._ranges is None:
            return self.tokens.flatten()
        # What a tokenizer writes on padding may lie outside the vocabulary, such as -100.
        attended = torch.zeros_like(self.tokens, dtype=torch.bool)
        for row, (start, stop) in enumerate(self._ranges):
            attended[row, start:stop] = True
        return self.tokens[attended]
