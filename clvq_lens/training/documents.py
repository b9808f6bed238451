"""Documents: texts or rows of tokens from whatever the user has, read again as often as needed."""

import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from clvq_lens.errors import DataError, EmptyCorpusError
from clvq_lens.training.document import (
    Corpus,
    Document,
    attended_range,
    document_of,
    integer_rows,
)
from clvq_lens.training.text_files import SUFFIXES, Spool, TextFile

Data = str | Path | Tensor | Iterable[Any]
"""A text, texts, a .txt or .jsonl path, or a Hugging Face dataset; tokens [row, pos], padded left
or right; or what a tokenizer returns: a mapping with input_ids and attention_mask. Without a mask,
padding is recognised by the model's padding token."""

_SPLIT_LOOK_AHEAD = 2_000  # documents from which the held-out threshold is taken
_OTHER_SUFFIXES = (
    *(".csv", ".tsv", ".json", ".ndjson", ".parquet", ".arrow", ".feather", ".xlsx", ".html"),
    *(".xml", ".md", ".pdf", ".gz", ".bz2", ".xz", ".zst", ".zip", ".tar", ".pt", ".npy", ".pkl"),
)


@runtime_checkable
class Documents(Protocol):
    """Something that yields the same documents every time it is iterated over."""

    def __iter__(self) -> Iterator[Document]:
        """The documents, from the first."""
        ...


def open_documents(data: Data) -> Documents:
    """Makes documents of the forms that data may have.

    Args:
        data: A list of texts, a path to a .txt file (a document per line) or a .jsonl file (a
            string or an object with "text" per line), a Hugging Face dataset with a text column,
            or any other iterable of texts. One that can be iterated over only once is copied to
            a temporary file, as far as it is read. Or tokens: a tensor [row, pos], rows of token
            ids, or a mapping with input_ids and attention_mask.

    Raises:
        DataError: If data has none of these forms.
        EmptyCorpusError: If there is no document in it.
    """
    documents = _open(data)
    if next(iter(documents), None) is None:
        raise EmptyCorpusError("The data hold no text at all. Pass at least one non-empty text.")
    return documents


def _open(data: Data) -> Documents:
    if isinstance(data, TextFile | Spool | TokenRows | Items):
        return data
    if isinstance(data, Path):
        return TextFile(data)
    if isinstance(data, str):
        return TextFile(Path(data)) if _is_path(data) else Items([data])
    if isinstance(data, np.ndarray):
        data = _array(data)
    if isinstance(data, Tensor):
        return TokenRows(data)
    if isinstance(data, Mapping) and "input_ids" in data:
        return _tokenized(data)
    if getattr(data, "closed", False) is True:
        raise DataError("The data are a closed file. Pass its path, or open it again.")
    items, column = _iterable(data), None
    if getattr(items, "column_names", None) is not None:  # a streamed dataset may not know them
        column = _text_column(items)
    return Spool(items, column) if iter(items) is items else Items(items, column)


def _iterable(data: Any) -> Iterable[Any]:
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
            f"tokens, a path to a .txt or .jsonl file, or a dataset."
        )
    return data


def _is_path(text: str) -> bool:
    """Whether a string names a file that can be read.

    Raises:
        DataError: If it names something else, so that it is hardly meant as a text.
    """
    if "\n" in text or not any(character.isalnum() for character in text):
        return False
    suffix = Path(text).suffix.lower()
    if suffix in SUFFIXES:
        return True
    if suffix in _OTHER_SUFFIXES:
        raise DataError(
            f"{text!r} looks like the path of a {suffix} file. Pass the path of a .txt or .jsonl "
            f"file, or the texts of this one as a list; if it is a text, pass [{text!r}]."
        )
    if os.path.exists(text):  # a path too long for the system does not exist
        raise DataError(
            f"{text!r} is the name of a file or folder. Pass the path of a .txt or .jsonl file; "
            f"if it is a text, pass [{text!r}]."
        )
    return False


def _array(data: np.ndarray) -> Any:
    """Texts as a list, token ids as a tensor."""
    if data.dtype.kind in "iu":
        return torch.from_numpy(data.astype(np.int64))
    if data.ndim != 1:
        raise DataError(
            f"The data are an array of {data.dtype} and shape {list(data.shape)}. Pass an array of "
            f"strings with one axis, or token ids of shape [row, position]."
        )
    return data.tolist()


def _text_column(dataset: Any) -> str:
    names = list(dataset.column_names)
    if len(names) == 1:
        return names[0]
    for name in ("text", "input_ids"):
        if name in names:
            return name
    raise DataError(
        f"The dataset has the columns {names}, none of them named 'text'. "
        f"Choose one: dataset.select_columns('...')."
    )


def _tokenized(data: Mapping[str, Any]) -> Documents:
    """The rows of what a Hugging Face tokenizer returns."""
    types = data.get("token_type_ids")
    if types is not None and any(np.any(np.asarray(row)) for row in types):
        raise DataError(
            "The token_type_ids mark second sentences, which the model is not told of here. "
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
    if len(ids) and isinstance(ids[0], int):  # of one text
        ids, mask = [ids], None if mask is None else [mask]
    rows = [{"input_ids": row} for row in ids]
    if mask is not None:
        rows = [{**row, "attention_mask": m} for row, m in zip(rows, mask, strict=True)]
    return Items(rows)


class Items:
    """An iterable of texts, rows of tokens, or mappings with one of them; empty ones are skipped.

    Args:
        items: Read anew each time.
        column: Where in a mapping the text stands; None: see `document_of`.
    """

    def __init__(self, items: Iterable[Any], column: str | None = None) -> None:
        self._items, self._column = items, column
        self._corpus = Corpus()

    def __iter__(self) -> Iterator[Document]:
        for number, item in enumerate(self._items):
            document = document_of(item, number, self._corpus, self._column)
            if not document.is_empty:
                yield document


class TokenRows:
    """The rows of a tensor of tokens.

    Args:
        tokens: Integers [row, pos], or [pos].
        mask: 1 on tokens and 0 on padding before and after them; None: the model's padding token
            tells.

    Raises:
        DataError: If they are no such tensors, or the mask has a hole.
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
        rows = enumerate(zip(mask, self.tokens, strict=True))
        self._ranges = [attended_range(m, row, self._corpus.name_of(n)) for n, (m, row) in rows]

    def __iter__(self) -> Iterator[Document]:
        for number, row in enumerate(self.tokens if self.tokens.numel() else []):
            if self._ranges is None:
                yield Document(row, number, corpus=self._corpus)
            else:
                start, stop = self._ranges[number]
                yield Document(row[start:stop], number, start, False, self._corpus)

    @property
    def ids(self) -> Int[Tensor, " n"]:
        """All token ids but those on padding that a mask tells of."""
        if self._ranges is None:
            return self.tokens.flatten()
        return torch.cat([document.content for document in self] or [self.tokens.flatten()])  # pyright: ignore


# ---- held-out part -------------------------------------------------------------------------------


class Split:
    """Which documents are held out, decided by their content, so duplicates stay together.

    A document is held out if its hash lies below a threshold. The threshold comes from the first
    documents, of which at least one is held out and one kept; nothing grows with the corpus.

    Args:
        documents: To be split.
        fraction: To be held out, between 0 and 1.
    """

    def __init__(self, documents: Documents, fraction: float) -> None:
        self._documents = documents
        ahead = itertools.islice(documents, _SPLIT_LOOK_AHEAD)
        hashes = sorted({_hash(document) for document in ahead})
        n_held_out = min(max(1, round(fraction * len(hashes))), len(hashes) - 1)
        self._threshold = hashes[n_held_out] if fraction and n_held_out > 0 else 0

    def held_out(self) -> Iterator[Document]:
        """The documents kept aside."""
        return (doc for doc in self._documents if _hash(doc) < self._threshold)

    def training(self) -> Iterator[Document]:
        """The others."""
        return (doc for doc in self._documents if _hash(doc) >= self._threshold)


def _hash(document: Document) -> int:
    return int.from_bytes(hashlib.blake2b(document.as_bytes(), digest_size=8).digest(), "big")
