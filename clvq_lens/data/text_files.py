"""Documents on disk: text files of the user, and copies of iterators as far as they were read."""

import gzip
import io
import json
import os
import shutil
import tempfile
import weakref
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import torch

from clvq_lens.arguments import checked_text
from clvq_lens.data.document import Corpus, Document, document_of
from clvq_lens.errors import DataError

SUFFIXES = (".txt", ".jsonl", ".txt.gz", ".jsonl.gz", ".parquet")
FILES = ".txt, .jsonl, .txt.gz, .jsonl.gz or .parquet"
"""The same in messages."""

_SIGNATURES = {  # the first bytes of files that are not text
    b"\x1f\x8b": "is compressed by gzip. Give it a name that ends in .txt.gz or .jsonl.gz",
    b"PK\x03\x04": "is a zip archive. Unpack it first",
    b"BZh": "is compressed by bzip2. Decompress it first: bunzip2",
    b"\xfd7zXZ": "is compressed by xz. Decompress it first: unxz",
    b"\x28\xb5\x2f\xfd": "is compressed by zstd. Decompress it first: unzstd",
    b"PAR1": "is a parquet file. Give it a name that ends in .parquet",
    b"\xff\xfe": "is UTF-16. Convert it: iconv -f utf-16 -t utf-8",
    b"\xfe\xff": "is UTF-16. Convert it: iconv -f utf-16 -t utf-8",
}


def suffix_of(path: Path | str) -> str:
    """The end of a name that says what is in the file, such as ".txt" or ".txt.gz"."""
    path = Path(path)
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() + suffix if suffix == ".gz" else suffix


def check_file_of_texts(path: Path) -> None:
    """Raises `DataError` if there is no such file, or its name says that it is of another kind."""
    # os.path, because Path.is_file raises for names that the system does not take.
    if not os.path.isfile(path):
        what, remedy = "no file", "Check the path; a text goes into a list."
        if os.path.isdir(path):
            what, remedy = "a folder", f"Pass a file in it, or 'hf:{path}' to read all of them."
        raise DataError(f"There is {what} {path}. {remedy}")
    if suffix_of(path) not in SUFFIXES:
        raise DataError(
            f"{path} is no {FILES} file. Convert it to one of them, or read its texts yourself and "
            f"pass them as a list."
        )


class TextFile:
    """A .txt file with a document per line, or a .jsonl file; read line by line.

    Args:
        path: Path of the file, which is in UTF-8, and compressed by gzip if its name ends in .gz.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._corpus = path, Corpus(path)

    def __iter__(self) -> Iterator[Document]:
        is_text = suffix_of(self._path).startswith(".txt")
        for number, line in enumerate(self._lines()):
            text = line.rstrip("\n") if is_text else self._parse(line, number)
            document = Document(text, number, corpus=self._corpus)
            if not document.is_empty:
                yield document

    def _lines(self) -> Iterator[str]:
        try:
            with self._opened_bytes() as file:
                start = file.read(8)
            for signature, what in _SIGNATURES.items():
                if start.startswith(signature):
                    raise DataError(f"{self._path} {what}.")
            # "sig" drops a byte order mark, which would be part of the first text. Bytes that are
            # not UTF-8 become surrogates, so that their line can be named.
            with self._opened_text() as lines:
                for number, line in enumerate(lines):
                    self._check(line, number)
                    yield line
        except (OSError, EOFError, zlib.error) as error:  # the latter two for damaged .gz files
            raise DataError(f"{self._path} cannot be read: {error}. Check the file.") from error

    def _opened_bytes(self) -> io.BufferedReader | gzip.GzipFile:
        is_compressed = suffix_of(self._path).endswith(".gz")
        return gzip.open(self._path) if is_compressed else self._path.open("rb")

    def _opened_text(self) -> io.TextIOWrapper:
        return io.TextIOWrapper(
            self._opened_bytes(), encoding="utf-8-sig", errors="surrogateescape"
        )

    def _check(self, line: str, number: int) -> None:
        """Raises `DataError` for a line that is not UTF-8."""
        name = self._corpus.name_of(number)
        if "\0" in line:
            raise DataError(
                f"{name}: there is a zero byte, so the file is binary or UTF-16. Convert it to "
                f"UTF-8, such as by: iconv -f utf-16 -t utf-8."
            )
        if line.isascii():  # most lines are, and this is much faster than to encode them
            return
        try:
            line.encode()
        except UnicodeEncodeError as error:
            byte = ord(line[error.start]) & 0xFF
            raise DataError(
                f"{name}: the byte 0x{byte:02x} at character {error.start} is not UTF-8; the file "
                f"may be latin-1. Convert it to UTF-8, such as by: iconv -f latin1 -t utf-8."
            ) from error

    def _parse(self, line: str, number: int) -> str:
        if not line.strip():
            return ""
        name = self._corpus.name_of(number)
        try:
            row = json.loads(line)
        except RecursionError as error:
            raise DataError(f"{name}: JSON nested too deeply. Fix that line.") from error
        except ValueError as error:
            raise DataError(f"{name}: {error}. Fix that line.") from error
        text = row.get("text") if isinstance(row, dict) else row
        if not isinstance(text, str):
            raise DataError(
                f"{name}: expected a string or an object with a 'text' string. Fix that line."
            )
        return checked_text(text, name)


class Spool:
    """The documents of an iterator, copied to a temporary file as they are first read.

    A reader takes what the file has and goes on with the iterator, so an endless one is read no
    further than needed. The file is deleted with this object.

    Args:
        items: Texts or rows of tokens.
        column: Key of the text in an item that is a mapping; None: see `document_of`.
        corpus: What the items come from; None: they are in memory.
    """

    def __init__(
        self, items: Iterable[object], column: str | None = None, corpus: Corpus | None = None
    ) -> None:
        folder = Path(tempfile.mkdtemp(prefix="clvq-lens-"))
        self._path = folder / "documents.jsonl"
        self._writer = self._path.open("wb")
        weakref.finalize(self, _discard, self._writer, folder)
        self._items, self._column = enumerate(items), column
        self._corpus = corpus or Corpus()
        self._size_bytes = 0

    def __iter__(self) -> Iterator[Document]:
        n_read_bytes = 0
        with self._path.open("rb") as reader:
            # Another reader may have copied more in the meantime; only at the end of the file does
            # this one go on with the iterator.
            while n_read_bytes < self._size_bytes or self._copy_next():
                reader.seek(n_read_bytes)  # past what was buffered before the file grew
                line = reader.readline()
                n_read_bytes += len(line)
                yield self._read(line)

    def _copy_next(self) -> bool:
        """Copies the next document that is not empty; False if there is none."""
        for number, item in self._items:
            document = document_of(item, number, self._corpus, self._column)
            if not document.is_empty:
                content = document.content
                text_or_ids = content if isinstance(content, str) else content.tolist()
                fields = [text_or_ids, document.number, document.start, document.is_padded]
                self._size_bytes += self._writer.write(json.dumps(fields).encode() + b"\n")
                self._writer.flush()  # readers open the file by themselves
                return True
        return False

    def _read(self, line: bytes) -> Document:
        content, number, start, is_padded = json.loads(line)
        if not isinstance(content, str):
            content = torch.tensor(content, dtype=torch.long)
        return Document(content, number, start, is_padded, self._corpus)


def _discard(writer: BinaryIO, folder: Path) -> None:
    writer.close()
    shutil.rmtree(folder, ignore_errors=True)
