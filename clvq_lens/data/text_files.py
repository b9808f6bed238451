"""Documents on disk: text files of the user, and copies of iterators as far as they were read."""

import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import torch

from clvq_lens.arguments import checked_text
from clvq_lens.data.document import Corpus, Document, document_of
from clvq_lens.errors import DataError

SUFFIXES = (".txt", ".jsonl")
_SIGNATURES = {  # the first bytes of files that are not text
    b"\x1f\x8b": "is compressed by gzip. Decompress it first: gunzip",
    b"PK\x03\x04": "is a zip archive. Unpack it first",
    b"BZh": "is compressed by bzip2. Decompress it first: bunzip2",
    b"\xfd7zXZ": "is compressed by xz. Decompress it first: unxz",
    b"\x28\xb5\x2f\xfd": "is compressed by zstd. Decompress it first: unzstd",
    b"PAR1": "is a parquet file. Pass its texts: pandas.read_parquet(path)['text']",
    b"\xff\xfe": "is UTF-16. Convert it: iconv -f utf-16 -t utf-8",
    b"\xfe\xff": "is UTF-16. Convert it: iconv -f utf-16 -t utf-8",
}


class TextFile:
    """A .txt file with a document per line, or a .jsonl file; read line by line.

    Args:
        path: Path of the file, which is in UTF-8.

    Raises:
        DataError: If there is no such file, or it is neither .txt nor .jsonl.
    """

    def __init__(self, path: Path) -> None:
        # os.path, because Path.is_file raises for names that the system does not take.
        if not os.path.isfile(path):
            what = "a folder" if os.path.isdir(path) else "no file"
            raise DataError(f"There is {what} {path}. Check the path; a text goes into a list.")
        if path.suffix.lower() not in SUFFIXES:
            raise DataError(
                f"{path} is neither .txt nor .jsonl. Convert it to one of them, or read its texts "
                f"yourself and pass them as a list."
            )
        self._path, self._corpus = path, Corpus(path)

    def __iter__(self) -> Iterator[Document]:
        is_text = self._path.suffix.lower() == ".txt"
        for number, line in enumerate(self._lines()):
            text = line.rstrip("\n") if is_text else self._parse(line, number)
            document = Document(text, number, corpus=self._corpus)
            if not document.is_empty:
                yield document

    def _lines(self) -> Iterator[str]:
        try:
            with self._path.open("rb") as file:
                start = file.read(8)
            for signature, what in _SIGNATURES.items():
                if start.startswith(signature):
                    raise DataError(f"{self._path} {what}.")
            # "sig" drops a byte order mark, which would be part of the first text. Bytes that are
            # not UTF-8 become surrogates, so that their line can be named.
            with self._path.open(encoding="utf-8-sig", errors="surrogateescape") as lines:
                for number, line in enumerate(lines):
                    self._check(line, number)
                    yield line
        except OSError as error:
            raise DataError(f"{self._path} cannot be read: {error}. Check the file.") from error

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
    """

    def __init__(self, items: Iterable[object], column: str | None = None) -> None:
        folder = Path(tempfile.mkdtemp(prefix="clvq-lens-"))
        self._path = folder / "documents.jsonl"
        self._writer = self._path.open("wb")
        weakref.finalize(self, _discard, self._writer, folder)
        self._items, self._column = enumerate(items), column
        self._corpus = Corpus()
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
