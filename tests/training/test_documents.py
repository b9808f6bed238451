import itertools
import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pandas as pd
import pytest
import torch
from datasets import Dataset, DatasetDict, IterableDataset
from hypothesis import given, settings
from hypothesis import strategies as st

from clvq_lens.errors import DataError, EmptyCorpusError
from clvq_lens.training.documents import Split, open_documents

TEXTS = ["The cat sat.", "A dog ran.", "É possible — 日本語 \u2028 too."]

# ---- forms of data -------------------------------------------------------------------------------


def test_a_list_of_texts_gives_its_texts_each_time_it_is_read():
    documents = open_documents(TEXTS)
    assert list(documents) == TEXTS
    assert list(documents) == TEXTS


def test_a_single_string_is_one_document():
    assert list(open_documents("The cat sat.")) == ["The cat sat."]


@pytest.mark.parametrize("as_path", [str, Path])
def test_a_txt_file_has_a_document_per_line(tmp_path: Path, as_path: type):
    path = tmp_path / "texts.txt"
    path.write_bytes("first one\n\n  \nsecond é\r\nlast".encode())
    documents = open_documents(as_path(path))
    assert list(documents) == ["first one", "second é", "last"]
    assert list(documents) == ["first one", "second é", "last"]


def test_a_jsonl_file_has_strings_or_objects_with_text(tmp_path: Path):
    path = tmp_path / "texts.jsonl"
    rows = ['"a string"', "", '{"text": "an object", "label": 3}', '{"text": ""}', '"two\\nlines"']
    path.write_text("\n".join(rows))
    assert list(open_documents(path)) == ["a string", "an object", "two\nlines"]


def test_rows_with_a_text_field_are_read_like_texts():
    assert list(open_documents([{"text": "one", "label": 0}, {"text": "two"}])) == ["one", "two"]


def test_a_dataset_is_read_from_its_text_column():
    dataset = Dataset.from_dict({"label": [0, 1], "text": ["one", "two"]})
    documents = open_documents(dataset)
    assert list(documents) == ["one", "two"]
    assert list(documents) == ["one", "two"]


def test_a_dataset_with_one_column_is_read_from_that():
    assert list(open_documents(Dataset.from_dict({"sentence": ["one", "two"]}))) == ["one", "two"]


@pytest.mark.parametrize("features_known", [True, False])
def test_a_streamed_dataset_is_read_from_its_text_column(features_known: bool):
    dataset = Dataset.from_dict({"text": ["one", "two"], "n": [1, 2]}).to_iterable_dataset()
    if not features_known:
        dataset = IterableDataset.from_generator(lambda: iter([{"text": "one"}, {"text": "two"}]))
        assert dataset.column_names is None
    documents = open_documents(dataset)
    assert list(documents) == ["one", "two"]
    assert list(documents) == ["one", "two"]


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_each_row_of_a_tensor_of_tokens_is_a_document(dtype: torch.dtype):
    rows = torch.tensor([[1, 2, 3], [4, 5, 6]], dtype=dtype)
    documents = list(open_documents(rows))
    assert [row.tolist() for row in documents] == [[1, 2, 3], [4, 5, 6]]
    assert all(row.dtype == torch.long for row in documents)


def test_a_vector_of_tokens_is_one_document():
    assert [row.tolist() for row in open_documents(torch.tensor([1, 2, 3]))] == [[1, 2, 3]]


def test_a_generator_is_read_once_and_gives_its_texts_many_times():
    drawn: list[int] = []

    def texts() -> Iterator[str]:
        for index, text in enumerate(["", "\n two lines\n\n", " spaces ", *TEXTS]):
            drawn.append(index)
            yield text

    documents = open_documents(texts())
    for _ in range(3):
        assert list(documents) == ["\n two lines\n\n", " spaces ", *TEXTS]  # just as in a list
    assert drawn == list(range(6))


def test_two_readers_of_a_spooled_generator_do_not_disturb_each_other():
    documents = open_documents(iter(TEXTS))
    assert list(zip(documents, documents, strict=True)) == [(text, text) for text in TEXTS]


def test_the_copy_of_a_generator_is_deleted_with_its_documents(monkeypatch, tmp_path: Path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    documents = open_documents(iter(TEXTS))
    assert len(list(tmp_path.iterdir())) == 1
    del documents
    assert list(tmp_path.iterdir()) == []


def test_empty_texts_are_passed_over():
    assert list(open_documents(["", "one", "  \n", "two"])) == ["one", "two"]


@given(st.lists(st.text(max_size=20), max_size=8))
@settings(max_examples=25, deadline=None)
def test_a_list_a_generator_and_a_jsonl_file_give_the_same_documents(tmp_path_factory, texts):
    if not any(text.strip() for text in texts):
        return
    expected = list(open_documents(texts))
    path = tmp_path_factory.mktemp("jsonl") / "texts.jsonl"
    path.write_text("".join(json.dumps(text) + "\n" for text in texts))
    assert list(open_documents(iter(texts))) == expected
    assert list(open_documents(path)) == expected


@pytest.fixture
def unchecked_types(monkeypatch):
    """As for a user, for whom nothing checks annotations."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


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
    with pytest.raises(DataError, match=r"texts\.jsonl, line 2: .*Mend that line"):
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
    with pytest.raises(DataError, match=r"texts\.csv is neither \.txt nor \.jsonl"):
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


def test_something_that_cannot_be_iterated_over_is_refused(unchecked_types):
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


# ---- the held-out part ---------------------------------------------------------------------------


def numbered(n: int) -> list[str]:
    return [f"This is text number {i}." for i in range(n)]


def test_a_split_is_disjoint_exhaustive_and_near_its_fraction():
    split = Split(open_documents(numbered(1_000)), 0.2)
    held_out, training = set(split.held_out()), set(split.training())
    assert held_out.isdisjoint(training)
    assert held_out | training == set(numbered(1_000))
    assert len(held_out) == 200


def test_a_split_keeps_the_order_of_the_data():
    split = Split(open_documents(numbered(50)), 0.5)
    for side in (split.held_out(), split.training()):
        positions = [numbered(50).index(text) for text in side]
        assert positions == sorted(positions)


def test_a_split_depends_on_the_texts_and_not_on_their_order():
    one = Split(open_documents(numbered(100)), 0.3)
    other = Split(open_documents(numbered(100)[::-1]), 0.3)
    assert set(one.held_out()) == set(other.held_out())
    assert list(one.held_out()) == list(one.held_out())


def test_duplicates_lie_on_one_side_also_when_white_space_differs():
    texts = numbered(40)
    copies = [text.replace(" ", "\n  ") + "\t" for text in texts]
    split = Split(open_documents(texts + copies + texts), 0.5)
    held_out, training = (
        {" ".join(text.split()) for text in side} for side in (split.held_out(), split.training())
    )
    assert held_out
    assert training
    assert held_out.isdisjoint(training)


def test_equal_rows_of_tokens_lie_on_one_side():
    rows = torch.randint(0, 5, (40, 2), generator=torch.Generator().manual_seed(0))
    split = Split(open_documents(rows), 0.5)
    held_out, training = (
        {tuple(row.tolist()) for row in side} for side in (split.held_out(), split.training())
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
    assert list(split.held_out()) == []
    assert len(list(split.training())) == 3


def test_a_fraction_of_zero_holds_out_none():
    split = Split(open_documents(numbered(10)), 0.0)
    assert list(split.held_out()) == []
    assert list(split.training()) == numbered(10)


class _Endless:
    """Would take for ever to read whole."""

    def __iter__(self) -> Iterator[str]:
        return (f"This is text number {i}." for i in itertools.count())


def test_a_split_reads_no_further_than_it_is_asked_to():
    split = Split(open_documents(_Endless()), 0.1)
    training = list(itertools.islice(split.training(), 100))
    held_out = list(itertools.islice(split.held_out(), 100))
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
