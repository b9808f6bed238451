"""Texts in .txt.gz and .jsonl.gz files: read like those that are not compressed."""

import gzip
from pathlib import Path

import pytest

from clvq_lens.data.documents import open_documents
from clvq_lens.data.split import Split
from clvq_lens.errors import DataError, EmptyCorpusError

LINES = {"a.txt": "first é\n\nlast\r\n", "a.jsonl": '"first é"\n\n{"text": "last"}\n'}


def compressed(folder: Path, name: str, content: bytes) -> Path:
    path = folder / f"{name}.gz"
    path.write_bytes(gzip.compress(content))
    return path


@pytest.mark.parametrize("as_path", [str, Path])
@pytest.mark.parametrize("name", LINES)
def test_the_documents_are_those_of_the_plain_file(tmp_path: Path, name: str, as_path: type):
    path = compressed(tmp_path, name, LINES[name].encode())
    documents = open_documents(as_path(path))
    for _ in range(2):
        assert [(document.content, document.number) for document in documents] == [
            ("first é", 0),
            ("last", 2),
        ]
    assert list(documents)[1].name == f"{path}, line 3"


@pytest.mark.parametrize("name", ["A.TXT", "a.b.txt"])
def test_what_is_in_the_file_is_told_by_the_end_of_its_name(tmp_path: Path, name: str):
    path = compressed(tmp_path, name, b'"one"')
    assert [document.content for document in open_documents(str(path))] == ['"one"']


def test_a_split_is_that_of_the_plain_file(tmp_path: Path):
    texts = "\n".join(f"This is text number {n}." for n in range(200))
    (tmp_path / "a.txt").write_text(texts)
    path = compressed(tmp_path, "a.txt", texts.encode())
    plain, of_compressed = (
        [document.number for document in Split(open_documents(each), 0.2).held_out()]
        for each in (tmp_path / "a.txt", path)
    )
    assert plain == of_compressed
    assert len(plain) == 40


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path):
    path = compressed(tmp_path, "a.jsonl", '"one"'.encode("utf-8-sig"))
    assert [document.content for document in open_documents(path)] == ["one"]


def test_a_broken_line_is_named(tmp_path: Path):
    path = compressed(tmp_path, "a.jsonl", b'"fine"\n{"text": "cut\n')
    with pytest.raises(DataError, match=r"a\.jsonl\.gz, line 2: .*Fix that line"):
        list(open_documents(path))
    path = compressed(tmp_path, "a.txt", "fine\nnée".encode("latin-1"))
    with pytest.raises(DataError, match=r"a\.txt\.gz, line 2: the byte 0xe9"):
        list(open_documents(path))


def test_a_file_that_is_compressed_twice_is_refused(tmp_path: Path):
    path = compressed(tmp_path, "a.txt", gzip.compress(b"one"))
    with pytest.raises(DataError, match="is compressed by gzip"):
        open_documents(path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-20], "ended before the end-of-stream marker"),
        (lambda content: content[:200] + b"\0" * 50 + content[250:], "while decompressing"),
        (lambda content: b"plain text\n", "Not a gzipped file"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, damage, message: str):
    lines = "\n".join(f"This is text number {n * n}." for n in range(2_000))
    path = compressed(tmp_path, "a.txt", lines.encode())
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=rf"a\.txt\.gz cannot be read.*{message}.*Check the file"):
        list(open_documents(path))


def test_an_empty_file_is_refused(tmp_path: Path):
    with pytest.raises(EmptyCorpusError, match="no text at all"):
        open_documents(compressed(tmp_path, "a.txt", b"\n"))
    with pytest.raises(DataError, match=r"There is no file .*b\.jsonl\.gz"):
        open_documents(str(tmp_path / "b.jsonl.gz"))
