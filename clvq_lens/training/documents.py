"""Documents: texts or rows of tokens from whatever the user has, read again as often as needed."""

import hashlib
import itertools
import json
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from clvq_lens.errors import DataError, EmptyCorpusError

Document = str | Int[Tensor, " _"]
Data = str | Path | Tensor | Iterable[Any]
"""A text, texts, a .txt or .jsonl path, tokens [row, pos], or a Hugging Face dataset."""

_SUFFIXES = (".txt", ".jsonl")
_SPLIT_LOOK_AHEAD = 2_000  # documents from which the held-out threshold is taken


@runtime_checkable
class Documents(Protocol):
    """Something that yields the same documents every time it is iterated over."""

    def __iter__(self) -> Iterator[Document]:
        """The documents, from the first."""
        ...


def open_documents(data: Data) -> Documents:
    """Makes documents of the forms that data may have.

    Args:
        data: A list of texts, a tensor of tokens [row, pos], a path to a .txt file (a document per
            line) or a .jsonl file (a string or an object with "text" per line), a Hugging Face
            dataset with a text column, or any other iterable of texts. One that can be iterated
            over only once is first copied to a temporary file.

    Raises:
        DataError: If data has none of these forms.
        EmptyCorpusError: If there is no document in it.
    """
    documents = _open(data)
    if next(iter(documents), None) is None:
        raise EmptyCorpusError("The data hold no text at all. Pass at least one non-empty text.")
    return documents


def _open(data: Data) -> Documents:
    if isinstance(data, Path) or (isinstance(data, str) and data.endswith(_SUFFIXES)):
        return _File(Path(data))
    if isinstance(data, str):
        return _Texts([data])
    if isinstance(data, Tensor):
        return _token_rows(data)
    if isinstance(data, Mapping):
        raise DataError(
            f"The data are a mapping with the keys {sorted(map(str, data))}. "
            f"Pass one of its parts, such as data['train']."
        )
    if getattr(data, "column_names", None) is not None:  # a streamed dataset may not know them
        return _Texts(data, column=_text_column(data))
    if isinstance(data, pd.DataFrame):  # iterating over one gives the names of its columns
        raise DataError(
            f"The data are a table with the columns {list(map(str, data.columns))}. "
            f"Pass one of them, such as data['text']."
        )
    if not isinstance(data, Iterable):
        raise DataError(
            f"Cannot read texts from {type(data).__name__}. Pass a list of strings, a tensor of "
            f"tokens, a path to a .txt or .jsonl file, or a dataset."
        )
    if iter(data) is data:
        return _Spooled(_Texts(data))
    return _Texts(data)


def _token_rows(tokens: Tensor) -> Documents:
    if tokens.ndim == 1:
        tokens = tokens.unsqueeze(0)
    if tokens.ndim != 2 or tokens.dtype.is_floating_point or tokens.dtype == torch.bool:
        raise DataError(
            f"The tokens are {tokens.dtype} of shape {list(tokens.shape)}; expected integers of "
            f"shape [row, position]."
        )
    return list(tokens.cpu().long()) if tokens.numel() else []


def _text_column(dataset: Any) -> str:
    names = list(dataset.column_names)
    if "text" in names:
        return "text"
    if len(names) == 1:
        return names[0]
    raise DataError(
        f"The dataset has the columns {names}, none of them named 'text'. "
        f"Choose one: dataset.select_columns('...')."
    )


class _Texts:
    """An iterable of texts, or of rows with a text column; empty texts are passed over."""

    def __init__(self, texts: Iterable[Any], *, column: str | None = None) -> None:
        self._texts, self._column = texts, column

    def __iter__(self) -> Iterator[Document]:
        for index, item in enumerate(self._texts):
            text = self._text_of(item, index) if isinstance(item, Mapping) else item
            if not isinstance(text, str):
                raise DataError(
                    f"Document {index} is {type(text).__name__}, expected a string. "
                    f"Pass texts, or tokens as one integer tensor."
                )
            if text.strip():
                yield text

    def _text_of(self, row: Mapping[str, Any], index: int) -> Any:
        column = self._column or "text"
        if column not in row:
            raise DataError(
                f"Document {index} has the fields {list(row)}, none of them named {column!r}. "
                f"Pass rows with a text, or the texts themselves."
            )
        return row[column]


class _File:
    """A .txt file with a document per line, or a .jsonl file; read line by line."""

    def __init__(self, path: Path) -> None:
        if path.suffix not in _SUFFIXES:
            raise DataError(f"{path} is neither .txt nor .jsonl. Convert it to one of them.")
        if not path.is_file():
            raise DataError(f"There is no file {path}. Check the path.")
        self._path = path

    def __iter__(self) -> Iterator[Document]:
        with self._path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                is_text = self._path.suffix == ".txt"
                text = line.rstrip("\n") if is_text else self._parse(line, number)
                if text.strip():
                    yield text

    def _parse(self, line: str, number: int) -> str:
        if not line.strip():
            return ""
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{self._path}, line {number}: {error}. Mend that line.") from error
        text = row.get("text") if isinstance(row, dict) else row
        if not isinstance(text, str):
            raise DataError(
                f"{self._path}, line {number}: expected a string or an object with a 'text' "
                f"string. Mend that line."
            )
        return text


class _Spooled(_File):
    """Texts copied to a temporary file, which is deleted with this object."""

    def __init__(self, texts: Iterable[Document]) -> None:
        folder = Path(tempfile.mkdtemp(prefix="clvq-lens-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        path = folder / "texts.jsonl"
        with path.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(text) + "\n" for text in texts)
        super().__init__(path)


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
    if isinstance(document, Tensor):
        content = document.numpy().tobytes()
    else:
        content = " ".join(document.split()).encode()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")
