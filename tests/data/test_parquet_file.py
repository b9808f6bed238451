"""Texts and tokens in Parquet files, read a few rows at a time."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clvq_lens.data.documents import open_documents
from clvq_lens.data.split import Split
from clvq_lens.errors import DataError, EmptyCorpusError
from tests.peak_memory import peak_kib


def written(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize("as_path", [str, Path])
@pytest.mark.parametrize(
    "columns",
    [
        {"label": [1, 2, 3], "text": ["first é", " ", "last"]},
        {"review": ["first é", "", "last"]},
        {"text": pa.array(["first é", "", "last"]).dictionary_encode(), "label": [1, 2, 3]},
        {"text": pa.array(["first é", "", "last"], pa.large_string()), "label": [1, 2, 3]},
    ],
)
def test_the_rows_of_the_text_column_are_documents(tmp_path: Path, as_path: type, columns: Any):
    path = written(tmp_path / "a.parquet", **columns)
    documents = open_documents(as_path(path))
    for _ in range(2):
        assert [(document.content, document.number) for document in documents] == [
            ("first é", 0),
            ("last", 2),
        ]
    assert list(documents)[1].name == f"{path}, row 2 (counted from 0)"


def test_tokens_are_read_with_their_mask(tmp_path: Path):
    path = written(
        tmp_path / "a.parquet",
        input_ids=[[1, 2, 0], [3, 0, 0]],
        attention_mask=[[1, 1, 0], [1, 0, 0]],
        source=["a", "b"],
    )
    assert [document.content.tolist() for document in open_documents(path)] == [[1, 2], [3]]


def test_a_split_is_that_of_the_texts(tmp_path: Path):
    texts = [f"This is text number {n}." for n in range(1_000)]
    path = written(tmp_path / "a.parquet", text=texts)
    split, of_texts = Split(open_documents(path), 0.2), Split(open_documents(texts), 0.2)
    held_out = [document.number for document in split.held_out()]
    assert held_out == [document.number for document in of_texts.held_out()]
    assert len(held_out) == 200


def test_a_file_without_a_text_column_is_refused_with_its_columns(tmp_path: Path):
    path = written(tmp_path / "a.parquet", title=["one"], body=["two"])
    message = r"a\.parquet has the columns \['title', 'body'\], none of them named 'text'\. Rename"
    with pytest.raises(DataError, match=message) as error:
        open_documents(path)
    assert f"'hf:{tmp_path}:train:COLUMN'" in str(error.value)


def test_the_remedy_works(tmp_path: Path):
    written(tmp_path / "a.parquet", title=["one"], body=["two"])
    documents = open_documents(f"hf:{tmp_path}:train:body")
    assert [document.content for document in documents] == ["two"]


@pytest.mark.parametrize(
    ("column", "what"), [([1, 2], "int"), (["one", None], "NoneType"), ([b"one", b"two"], "bytes")]
)
def test_a_row_that_is_no_text_is_named(tmp_path: Path, column: list[Any], what: str):
    path = written(tmp_path / "a.parquet", text=column)
    with pytest.raises(DataError, match=rf"a\.parquet, row \d \(counted from 0\) is {what}"):
        list(open_documents(path))


def test_a_file_without_a_text_is_refused(tmp_path: Path):
    with pytest.raises(EmptyCorpusError, match="no text at all"):
        open_documents(written(tmp_path / "a.parquet", text=pa.array([], pa.string())))
    with pytest.raises(DataError, match=r"There is no file .*b\.parquet"):
        open_documents(str(tmp_path / "b.parquet"))


def test_a_damaged_file_is_refused(tmp_path: Path):
    path = tmp_path / "a.parquet"
    path.write_text("text\none\n")
    with pytest.raises(DataError, match=r"a\.parquet cannot be read as Parquet: .*Check the file"):
        open_documents(path)
    texts = [f"This is text number {n * n}." for n in range(20_000)]
    pq.write_table(pa.table({"text": texts}), path, compression="gzip")
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 1_000] = bytes(1_000)
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        list(open_documents(path))


WRITE = """
import sys
import pyarrow as pa
import pyarrow.parquet as pq
n_rows = int(sys.argv[2])
text = "This is a sentence of some length, which is repeated for a text. " * 16
table = pa.table({"text": [f"{n} {text}" for n in range(n_rows)]})
# Without a dictionary and compression: on disk the texts are as large as in memory.
pq.write_table(
    table, sys.argv[1], row_group_size=n_rows, use_dictionary=False, compression="none"
)
"""
READ = """
from pathlib import Path
from clvq_lens.data.documents import open_documents
n_documents = sum(len(document) > 1_000 for document in open_documents(Path(sys.argv[1])))
assert n_documents == int(sys.argv[2])
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tmp_path: Path):
    """Also where all rows are one group, which is what many writers make of a million rows."""
    peaks: list[int] = []
    for n_rows in (1_000, 100_000):
        path = tmp_path / f"{n_rows}.parquet"
        # In a process of its own, since a new process counts the memory of this one as its own.
        subprocess.run([sys.executable, "-c", WRITE, path, str(n_rows)], check=True)
        assert path.stat().st_size > 1_000 * n_rows
        peaks.append(peak_kib(READ, path, n_rows))
    assert peaks[1] - peaks[0] < 20_000  # of 100,000 KiB more on disk
