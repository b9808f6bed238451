import gzip
import itertools
import json
import tracemalloc
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset, DatasetDict, IterableDataset
from hypothesis import given, settings
from hypothesis import strategies as st

from clvq_lens.data.document import Document
from clvq_lens.data.documents import open_documents
from clvq_lens.data.split import Split
from clvq_lens.errors import DataError, EmptyCorpusError

TEXTS = ["The cat sat.", "A dog ran.", "É possible — 日本語 \u2028 too."]


def contents(documents: Iterable[Document]) -> list[Any]:
    return [document.content for document in documents]


# ---- forms of data -------------------------------------------------------------------------------


def test_a_list_of_texts_gives_its_texts_each_time_it_is_read():
    documents = open_documents(TEXTS)
    assert contents(documents) == TEXTS
    assert contents(documents) == TEXTS


def test_a_single_string_is_one_document():
    assert contents(open_documents("The cat sat.")) == ["The cat sat."]


@pytest.mark.parametrize("as_path", [str, Path])
def test_a_txt_file_has_a_document_per_line(tmp_path: Path, as_path: type):
    path = tmp_path / "texts.txt"
    path.write_bytes("first one\n\n  \nsecond é\r\nlast".encode())
    documents = open_documents(as_path(path))
    assert contents(documents) == ["first one", "second é", "last"]
    assert contents(documents) == ["first one", "second é", "last"]


def test_a_jsonl_file_has_strings_or_objects_with_text(tmp_path: Path):
    path = tmp_path / "texts.jsonl"
    rows = ['"a string"', "", '{"text": "an object", "label": 3}', '{"text": ""}', '"two\\nlines"']
    path.write_text("\n".join(rows))
    assert contents(open_documents(path)) == ["a string", "an object", "two\nlines"]


def test_rows_with_a_text_field_are_read_like_texts():
    assert contents(open_documents([{"text": "one", "label": 0}, {"text": "two"}])) == [
        "one",
        "two",
    ]


def test_a_dataset_is_read_from_its_text_column():
    dataset = Dataset.from_dict({"label": [0, 1], "text": ["one", "two"]})
    documents = open_documents(dataset)
    assert contents(documents) == ["one", "two"]
    assert contents(documents) == ["one", "two"]


def test_a_dataset_with_one_column_is_read_from_that():
    assert contents(open_documents(Dataset.from_dict({"sentence": ["one", "two"]}))) == [
        "one",
        "two",
    ]


@pytest.mark.parametrize("features_known", [True, False])
def test_a_streamed_dataset_is_read_from_its_text_column(features_known: bool):
    dataset = Dataset.from_dict({"text": ["one", "two"], "n": [1, 2]}).to_iterable_dataset()
    if not features_known:
        dataset = IterableDataset.from_generator(lambda: iter([{"text": "one"}, {"text": "two"}]))
        assert dataset.column_names is None
    documents = open_documents(dataset)
    assert contents(documents) == ["one", "two"]
    assert contents(documents) == ["one", "two"]


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_each_row_of_a_tensor_of_tokens_is_a_document(dtype: torch.dtype):
    rows = torch.tensor([[1, 2, 3], [4, 5, 6]], dtype=dtype)
    documents = contents(open_documents(rows))
    assert [row.tolist() for row in documents] == [[1, 2, 3], [4, 5, 6]]
    assert all(row.dtype == torch.long for row in documents)


def test_a_vector_of_tokens_is_one_document():
    assert [row.tolist() for row in contents(open_documents(torch.tensor([1, 2, 3])))] == [
        [1, 2, 3]
    ]


def test_a_generator_is_read_once_and_gives_its_texts_many_times():
    drawn: list[int] = []

    def texts() -> Iterator[str]:
        for index, text in enumerate(["", "\n two lines\n\n", " spaces ", *TEXTS]):
            drawn.append(index)
            yield text

    documents = open_documents(texts())
    for _ in range(3):
        assert contents(documents) == ["\n two lines\n\n", " spaces ", *TEXTS]  # just as in a list
    assert drawn == list(range(6))


def test_two_readers_of_a_spooled_generator_do_not_disturb_each_other():
    documents = open_documents(iter(TEXTS))
    pairs = [(one.content, two.content) for one, two in zip(documents, documents, strict=True)]
    assert pairs == [(text, text) for text in TEXTS]


def test_the_copy_of_a_generator_is_deleted_with_its_documents(monkeypatch, tmp_path: Path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    documents = open_documents(iter(TEXTS))
    assert len(list(tmp_path.iterdir())) == 1
    del documents
    assert list(tmp_path.iterdir()) == []


def test_empty_texts_are_passed_over():
    assert contents(open_documents(["", "one", "  \n", "two"])) == ["one", "two"]


@given(st.lists(st.text(max_size=20), max_size=8))
@settings(max_examples=25, deadline=None)
def test_a_list_a_generator_and_a_jsonl_file_give_the_same_documents(tmp_path_factory, texts):
    if not any(text.strip() for text in texts):
        return
    expected = contents(open_documents(texts))
    path = tmp_path_factory.mktemp("jsonl") / "texts.jsonl"
    path.write_text("".join(json.dumps(text) + "\n" for text in texts))
    assert contents(open_documents(iter(texts))) == expected
    assert contents(open_documents(path)) == expected


# ---- numbers and names ---------------------------------------------------------------------------


@pytest.mark.parametrize("once", [False, True])
def test_documents_have_the_index_that_the_user_counts(once: bool):
    texts = ["one", "", "  \n", "two"]
    documents = open_documents(iter(texts) if once else texts)
    assert [(doc.number, doc.name) for doc in documents] == [(0, "Document 0"), (3, "Document 3")]
    split = Split(documents, 0.5)
    assert {doc.number for part in (split.held_out(), split.training()) for doc in part} == {0, 3}


@pytest.mark.parametrize(
    ("name", "content"), [("a.txt", "one\n\ntwo\n"), ("a.jsonl", '"one"\n\n{"text": "two"}')]
)
def test_documents_of_a_file_are_named_by_their_line(tmp_path: Path, name: str, content: str):
    (tmp_path / name).write_text(content)
    documents = list(open_documents(tmp_path / name))
    assert [doc.number for doc in documents] == [0, 2]
    assert documents[1].name == f"{tmp_path / name}, line 3"


def test_documents_keep_their_number_when_they_are_passed_on():
    documents = list(open_documents(["", "one", "", "two"]))
    assert list(open_documents(documents[1:])) == documents[1:]


# ---- tokens --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rows",
    [
        [torch.tensor([1, 2]), torch.tensor([3])],
        [[1, 2], [3]],
        [np.array([1, 2]), np.array([3])],
        {"input_ids": [[1, 2], [3]]},
        [{"input_ids": [1, 2]}, {"input_ids": [3], "attention_mask": [1]}],
        {"input_ids": [[1, 2], [3, 0]], "attention_mask": [[1, 1], [1, 0]]},
    ],
)
@pytest.mark.parametrize("once", [False, True])
def test_rows_of_tokens_may_differ_in_length(rows: Any, once: bool):
    if once and isinstance(rows, dict):
        return
    documents = open_documents(iter(rows) if once else rows)
    for _ in range(2):
        assert [doc.content.tolist() for doc in documents] == [[1, 2], [3]]


def test_an_array_of_tokens_is_read_as_a_tensor():
    documents = open_documents(np.array([[1, 2], [3, 4]], dtype=np.int32))
    assert [row.tolist() for row in contents(documents)] == [[1, 2], [3, 4]]


def test_a_tokenized_dataset_is_read_with_its_mask():
    columns = {"input_ids": [[1, 2, 0], [3, 0, 0]], "attention_mask": [[1, 1, 0], [1, 0, 0]]}
    documents = open_documents(Dataset.from_dict(columns))
    assert [row.tolist() for row in contents(documents)] == [[1, 2], [3]]


@pytest.mark.parametrize(
    "texts",
    [
        ("one", "two"),
        np.array(["one", "two"]),
        np.array(["one", "two"], dtype=object),
        pd.Series(["one", "two"]),
        {"one": 0, "two": 1}.keys(),
    ],
    ids=["tuple", "array", "object array", "series", "keys"],
)
def test_texts_may_come_in_any_container_with_an_order(texts: Any):
    assert contents(open_documents(texts)) == ["one", "two"]


# ---- iterators -----------------------------------------------------------------------------------


def test_an_endless_iterator_is_read_no_further_than_asked():
    drawn = 0

    def endless() -> Iterator[str]:
        nonlocal drawn
        while True:
            drawn += 1
            yield f"text {drawn}"

    documents = open_documents(endless())
    assert drawn == 1
    first = contents(itertools.islice(documents, 5))
    assert drawn == 5
    second = contents(itertools.islice(documents, 8))  # replays five, and goes on
    assert drawn == 8
    assert second[:5] == first
    assert second == [f"text {n}" for n in range(1, 9)]


def test_readers_of_an_iterator_that_take_turns_see_all_of_it():
    documents = open_documents(str(n) * 10_000 for n in range(10, 40))
    ahead, behind = iter(documents), iter(documents)
    expected = [str(n) * 10_000 for n in range(10, 40)]
    found = contents(itertools.islice(ahead, 7)) + contents(itertools.islice(behind, 9))
    assert found == expected[:7] + expected[:9]
    assert contents(ahead) == expected[7:]
    assert contents(behind) == expected[9:]


def test_the_lines_of_an_open_file_are_texts(tmp_path: Path):
    (tmp_path / "a.csv").write_text("one\ntwo\n")
    with (tmp_path / "a.csv").open() as lines:
        documents = open_documents(lines)
        assert contents(documents) == ["one\n", "two\n"]


# ---- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("once", [False, True])
def test_a_document_that_is_no_string_is_refused_by_its_number(once: bool):
    texts = ["fine", 7]
    with pytest.raises(DataError, match="Document 1 is int, expected a string"):
        list(open_documents(iter(texts) if once else texts))


def test_a_row_without_a_text_field_is_refused():
    with pytest.raises(DataError, match=r"Document 1 .*'text'"):
        list(open_documents([{"text": "fine"}, {"sentence": "one"}]))


def test_a_broken_line_of_jsonl_is_refused_by_its_number(tmp_path: Path):
    path = tmp_path / "texts.jsonl"
    path.write_text('"fine"\n{"text": "cut\n')
    with pytest.raises(DataError, match=r"texts\.jsonl, line 2: .*Fix that line"):
        list(open_documents(path))


@pytest.mark.parametrize("line", ['{"body": "one"}', "17", '{"text": 17}', '["one"]'])
def test_a_line_of_jsonl_without_a_text_is_refused(tmp_path: Path, line: str):
    path = tmp_path / "texts.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(DataError, match="line 1: expected a string or an object with a 'text'"):
        open_documents(path)


@pytest.mark.parametrize("name", ["missing.txt", "missing.jsonl"])
def test_a_missing_file_is_refused(tmp_path: Path, name: str):
    with pytest.raises(DataError, match=f"There is no file .*{name}"):
        open_documents(str(tmp_path / name))


def test_a_file_of_another_kind_is_refused(tmp_path: Path):
    path = tmp_path / "texts.csv"
    path.write_text("text\none\n")
    with pytest.raises(DataError, match=r"texts\.csv is no \.txt, .* or \.parquet file"):
        open_documents(path)


@pytest.mark.parametrize(
    "mapping",
    [
        {"train": ["one"], "test": ["two"]},
        DatasetDict({name: Dataset.from_dict({"text": ["one"]}) for name in ("test", "train")}),
    ],
)
def test_a_mapping_is_refused_with_its_keys(mapping: dict):
    with pytest.raises(
        DataError, match=r"mapping with the keys \['test', 'train'\].*data\['train'\]"
    ):
        open_documents(mapping)


def test_a_dataset_with_several_columns_and_no_text_is_refused():
    dataset = Dataset.from_dict({"question": ["one"], "answer": ["two"]})
    with pytest.raises(DataError, match=r"columns \['question', 'answer'\], none of them named"):
        open_documents(dataset)


def test_something_that_cannot_be_iterated_over_is_refused(as_for_a_user):
    with pytest.raises(DataError, match="Cannot read texts from int"):
        open_documents(7)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "tokens",
    [torch.zeros(2, 3), torch.zeros(2, 3, 4, dtype=torch.long), torch.ones(2, 3, dtype=torch.bool)],
)
def test_a_tensor_that_holds_no_rows_of_token_ids_is_refused(tokens: torch.Tensor):
    with pytest.raises(DataError, match=r"expected integers of shape \[row, position\]"):
        open_documents(tokens)


@pytest.mark.parametrize(
    "data",
    [[], [""], iter([]), iter(["", "\n"]), "", torch.empty(0, 4, dtype=torch.long)],
    ids=["list", "empty text", "iterator", "iterator of empty texts", "string", "tensor"],
)
def test_data_without_a_text_are_refused(data: object):
    with pytest.raises(EmptyCorpusError, match="no text at all"):
        open_documents(data)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["empty.txt", "empty.jsonl"])
def test_an_empty_file_is_refused(tmp_path: Path, name: str):
    (tmp_path / name).write_text("\n \n")
    with pytest.raises(EmptyCorpusError, match="no text at all"):
        open_documents(tmp_path / name)


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_bytes_are_refused(as_for_a_user, kind: type):
    with pytest.raises(DataError, match=r"data are bytes\. Decode them"):
        open_documents(kind(b"a text"))
    with pytest.raises(DataError, match=rf"Document 1 is {kind.__name__}, .*text\.decode"):
        list(open_documents(["fine", kind(b"a text")]))


@pytest.mark.parametrize("kind", [set, frozenset])
def test_a_set_is_refused_because_it_has_no_order(kind: type):
    with pytest.raises(DataError, match=r"set, whose order differs.*sorted\(texts\)"):
        open_documents(kind(["one", "two"]))


@pytest.mark.parametrize(
    ("item", "what"),
    [
        (None, "NoneType"),
        (float("nan"), "NaN"),
        (["a"], "list"),
        (torch.tensor(3), r"Tensor of torch.int64 and shape \[\]"),
        (torch.zeros(2), r"Tensor of torch.float32"),
        ([True, False], "list"),
        ([1.5], "list"),
    ],
)
def test_an_item_that_is_no_text_is_named(item: Any, what: str):
    with pytest.raises(DataError, match=f"Document 2 is {what}.*expected a string"):
        list(open_documents(["fine", "", item]))


def test_token_ids_beyond_64_bits_are_refused():
    with pytest.raises(DataError, match="Document 0 has a token id beyond 64 bits"):
        open_documents([[1, 2**70]])


@pytest.mark.parametrize("data", [np.array("text"), np.array([["a"], ["b"]]), np.zeros((2, 3))])
def test_an_array_of_something_else_is_refused(data: np.ndarray):
    with pytest.raises(DataError, match=r"data are an array of .*strings with one axis"):
        open_documents(data)


@pytest.mark.parametrize("once", [False, True])
def test_half_a_surrogate_pair_is_refused(once: bool):
    texts = ["fine", "broken \ud83d here"]
    with pytest.raises(DataError, match=r"Document 1 has half a character .*ud83d.* at index 7"):
        list(open_documents(iter(texts) if once else texts))


@pytest.mark.parametrize("name", ["reviews.csv", "my reviews.CSV", "data/all.arrow", "a.json.gz"])
def test_a_string_that_looks_like_a_path_is_no_text(name: str):
    with pytest.raises(DataError, match=r"looks like the path of a .* file.*if it is a text, pass"):
        open_documents(name)
    assert contents(open_documents([name])) == [name]


def test_a_string_that_names_a_file_or_folder_is_no_text(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reviews").write_text("one")
    (tmp_path / "texts").mkdir()
    for name in ("reviews", "texts", str(tmp_path)):
        with pytest.raises(DataError, match="is the name of a file or folder"):
            open_documents(name)
    for text in ("no such file", ".", "x" * 5_000, "a\0b", "It is in reviews\nof texts.csv"):
        assert contents(open_documents(text)) == [text]
    with pytest.raises(DataError, match=rf"There is a folder .*'hf:{tmp_path}' to read all"):
        open_documents(tmp_path)


# ---- files that cannot be read -------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_a_file_that_is_not_utf_8_is_refused_with_its_line(tmp_path: Path, name: str):
    lines = ['"fine"', '"née"', '"é"']
    (tmp_path / name).write_bytes("\n".join(lines).encode("latin-1"))
    with pytest.raises(DataError, match=rf"{name}, line 2: the byte 0xe9 .*latin-1.*iconv"):
        list(open_documents(tmp_path / name))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a text".encode("utf-16"), "is UTF-16"),
        ("a text".encode("utf-16-le"), "line 1: there is a zero byte, .* UTF-16"),
        (gzip.compress(b"a text", mtime=0), r"compressed by gzip\. Give it a name .*\.txt\.gz"),
        (b"PAR1 and so on", r"is a parquet file\. Give it a name that ends in \.parquet"),
        (b"PK\x03\x04 and so on", "zip archive"),
        (b"fine\n\x89PNG\x00\x00", "line 2: there is a zero byte"),
    ],
)
def test_a_file_that_is_no_text_is_refused(tmp_path: Path, content: bytes, message: str):
    path = tmp_path / "texts.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        list(open_documents(path))


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text('"one"', encoding="utf-8-sig")
    assert contents(open_documents(tmp_path / "a.jsonl")) == ["one"]


@pytest.mark.parametrize("line", ["[" * 100_000, '{"a":' * 100_000])
def test_json_that_is_nested_too_deeply_is_refused_by_its_line(tmp_path: Path, line: str):
    (tmp_path / "a.jsonl").write_text('"fine"\n' + line)
    with pytest.raises(DataError, match="line 2: JSON nested too deeply"):
        list(open_documents(tmp_path / "a.jsonl"))


def test_a_surrogate_in_json_is_refused_by_its_line(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text('"fine"\n"\\ud800"')
    with pytest.raises(DataError, match=r"line 2 has half a character"):
        list(open_documents(tmp_path / "a.jsonl"))


def test_a_file_that_is_gone_is_an_error_of_ours(tmp_path: Path):
    (tmp_path / "a.txt").write_text("one")
    documents = open_documents(tmp_path / "a.txt")
    (tmp_path / "a.txt").unlink()
    with pytest.raises(DataError, match=r"a\.txt cannot be read: .*No such file"):
        list(documents)


# ---- the held-out part ---------------------------------------------------------------------------


def numbered(n: int) -> list[str]:
    return [f"This is text number {i}." for i in range(n)]


def test_a_split_is_disjoint_exhaustive_and_near_its_fraction():
    split = Split(open_documents(numbered(1_000)), 0.2)
    held_out, training = set(contents(split.held_out())), set(contents(split.training()))
    assert held_out.isdisjoint(training)
    assert held_out | training == set(numbered(1_000))
    assert len(held_out) == 200


def test_a_split_keeps_the_order_of_the_data():
    split = Split(open_documents(numbered(50)), 0.5)
    for side in (split.held_out(), split.training()):
        positions = [numbered(50).index(text) for text in contents(side)]
        assert positions == sorted(positions)


def test_a_split_depends_on_the_texts_and_not_on_their_order():
    one = Split(open_documents(numbered(100)), 0.3)
    other = Split(open_documents(numbered(100)[::-1]), 0.3)
    assert set(contents(one.held_out())) == set(contents(other.held_out()))
    assert contents(one.held_out()) == contents(one.held_out())


def test_duplicates_lie_on_one_side_also_when_white_space_differs():
    texts = numbered(40)
    copies = [text.replace(" ", "\n  ") + "\t" for text in texts]
    split = Split(open_documents(texts + copies + texts), 0.5)
    held_out, training = (
        {" ".join(text.split()) for text in contents(side)}
        for side in (split.held_out(), split.training())
    )
    assert held_out
    assert training
    assert held_out.isdisjoint(training)


def test_equal_rows_of_tokens_lie_on_one_side():
    rows = torch.randint(0, 5, (40, 2), generator=torch.Generator().manual_seed(0))
    split = Split(open_documents(rows), 0.5)
    held_out, training = (
        {tuple(row.tolist()) for row in contents(side)}
        for side in (split.held_out(), split.training())
    )
    assert held_out
    assert training
    assert held_out.isdisjoint(training)


@given(st.integers(2, 30), st.floats(0.001, 0.9))
@settings(max_examples=50, deadline=None)
def test_of_two_or_more_texts_each_side_gets_one(n: int, fraction: float):
    split = Split(open_documents(numbered(n) * 2), fraction)
    assert next(split.held_out(), None) is not None
    assert next(split.training(), None) is not None


def test_of_one_distinct_text_none_is_held_out():
    split = Split(open_documents(["the same", "the  same", "the same"]), 0.5)
    assert contents(split.held_out()) == []
    assert len(contents(split.training())) == 3


def test_a_fraction_of_zero_holds_out_none():
    split = Split(open_documents(numbered(10)), 0.0)
    assert contents(split.held_out()) == []
    assert contents(split.training()) == numbered(10)


class _Endless:
    """Would take for ever to read whole."""

    def __iter__(self) -> Iterator[str]:
        return (f"This is text number {i}." for i in itertools.count())


def test_a_split_reads_no_further_than_it_is_asked_to():
    split = Split(open_documents(_Endless()), 0.1)
    training = contents(itertools.islice(split.training(), 100))
    held_out = contents(itertools.islice(split.held_out(), 100))
    assert set(training).isdisjoint(held_out)


def test_reading_a_split_of_many_texts_keeps_none_of_them():
    split = Split(open_documents(_Endless()), 0.1)
    tracemalloc.start()
    try:
        for _ in itertools.islice(split.training(), 10_000):
            pass
        assert tracemalloc.get_traced_memory()[1] < 100_000  # ten bytes of each would be as many
    finally:
        tracemalloc.stop()


def test_a_data_frame_is_refused_rather_than_read_as_the_names_of_its_columns():
    with pytest.raises(DataError, match=r"a table with the columns \['text', 'label'\]"):
        open_documents(pd.DataFrame({"text": ["one"], "label": [0]}))
