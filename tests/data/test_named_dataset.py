"""Data sets by name: parts of the name, folders on this computer, and the Hub that is asked."""

import time
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants

from clvq_lens.data.document import Document
from clvq_lens.data.documents import Documents, open_documents
from clvq_lens.data.named_dataset import DatasetName, names_dataset
from clvq_lens.data.split import Split
from clvq_lens.data.text_files import Spool
from clvq_lens.errors import ConfigError, DataError, HubError


@pytest.fixture(autouse=True)
def cache_of_its_own(monkeypatch, tmp_path_factory) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    """Two splits in JSON, with a label beside the text; the working directory is the one above."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reviews").mkdir()
    rows = ['{"text": "one", "label": 1}', '{"text": " ", "label": 2}', '{"text": "three"}']
    (tmp_path / "reviews" / "train.jsonl").write_text("\n".join(rows))
    (tmp_path / "reviews" / "test.jsonl").write_text('{"text": "four", "label": 1}\n')
    return tmp_path / "reviews"


def found(documents: Documents) -> list[tuple[Any, int]]:
    return [(document.content, document.number) for document in documents]


# ---- the name ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("hf:imdb", ("imdb", None, None, None)),
        ("hf:user/name:test", ("user/name", None, "test", None)),
        ("hf:user/name:test:body", ("user/name", None, "test", "body")),
        ("hf:user/name:test:meta:body", ("user/name", None, "test", "meta:body")),
        ("hf:allenai/c4/en:train", ("allenai/c4", "en", "train", None)),
    ],
)
def test_a_name_has_up_to_three_parts_and_a_subset(text: str, parts: tuple[Any, ...]):
    name = DatasetName.parsed(text)
    assert (name.place, name.subset, name.split, name.column) == parts
    assert str(name) == text
    assert name.absolute() == name


@pytest.mark.parametrize("text", ["hf:", "hf::train", "hf:a:", "hf:a::body", "hf:a:train:"])
def test_a_name_that_lacks_a_part_is_refused(text: str):
    with pytest.raises(
        DataError, match=rf"'{text}' lacks a part: expected hf:NAME, .*\['{text}'\]"
    ):
        open_documents(text)


@pytest.mark.parametrize("text", ["hf:./missing", "hf:/no/such", "hf:~nobody/x", "hf:a/b/c/d"])
def test_a_path_without_a_folder_is_refused(text: str):
    with pytest.raises(DataError, match=r"There is no folder .*, or the name of a data set"):
        open_documents(text)


@pytest.mark.parametrize("text", ["hf: a text", "hf:is it so?", "hf:one\ntwo", "a hf:b", "hf"])
def test_a_text_is_a_text(text: str):
    assert not names_dataset(text)
    assert found(open_documents(text)) == [(text, 0)]


# ---- folders -------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["./reviews", "reviews", "reviews/", "ABSOLUTE"])
def test_a_folder_is_read_from_its_train_split_and_text_column(folder: Path, place: str):
    documents = open_documents(f"hf:{folder if place == 'ABSOLUTE' else place}")
    for _ in range(2):
        assert found(documents) == [("one", 0), ("three", 2)]


def test_documents_are_named_by_their_row(folder: Path):
    last = list(open_documents("hf:./reviews:train"))[1]
    assert last.name == "hf:./reviews:train, row 2 (counted from 0)"


def test_split_and_column_can_be_chosen(folder: Path):
    assert found(open_documents("hf:./reviews:test")) == [("four", 0)]
    table = pa.table({"title": ["a"], "meta:body": ["two"]})
    (folder / "sub").mkdir()
    pq.write_table(table, folder / "sub" / "all.parquet")
    assert found(open_documents("hf:reviews/sub:train:meta:body")) == [("two", 0)]


def test_a_folder_whose_name_has_a_space_is_read(folder: Path):
    folder.rename(folder.with_name("my reviews"))
    assert found(open_documents("hf:./my reviews:test")) == [("four", 0)]


def test_tokens_are_read_with_their_mask(tmp_path: Path):
    columns = {"input_ids": [[1, 2, 0]], "attention_mask": [[1, 1, 0]], "source": ["a"]}
    pq.write_table(pa.table(columns), tmp_path / "tokens.parquet")
    (document,) = open_documents(f"hf:{tmp_path}")
    assert document.content.tolist() == [1, 2]


def test_a_split_of_documents_is_that_of_the_texts(tmp_path: Path):
    texts = [f"This is text number {n}." for n in range(200)]
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet")
    split, of_texts = (
        Split(open_documents(f"hf:{tmp_path}"), 0.2),
        Split(open_documents(texts), 0.2),
    )
    numbers = [document.number for document in split.held_out()]
    assert numbers == [document.number for document in of_texts.held_out()]


def test_an_unknown_split_is_refused_with_those_that_there_are(folder: Path):
    message = r"no split 'tests'\. Closest: 'test'\. The splits are \['train', 'test'\]"
    with pytest.raises(DataError, match=message):
        open_documents("hf:reviews:tests")


def test_several_splits_without_train_have_to_be_chosen_from(folder: Path):
    (folder / "train.jsonl").rename(folder / "validation.jsonl")
    message = r"has the splits \['validation', 'test'\]\. Name one: hf:reviews:validation\."
    with pytest.raises(DataError, match=message):
        open_documents("hf:reviews")


def test_an_unknown_column_is_refused_with_those_that_there_are(folder: Path):
    message = r"no column 'texts'\. Closest: 'text'\. The columns are \['text', 'label'\]"
    with pytest.raises(DataError, match=message):
        open_documents("hf:reviews:train:texts")


def test_a_column_has_to_be_chosen_if_none_is_named_text(tmp_path: Path):
    pq.write_table(pa.table({"title": ["a"], "body": ["b"]}), tmp_path / "a.parquet")
    message = r"has the columns \['title', 'body'\].* Name one: hf:.*:train:COLUMN\."
    with pytest.raises(DataError, match=message):
        open_documents(f"hf:{tmp_path}")


def test_a_column_of_something_else_is_refused_by_its_row(folder: Path):
    message = r"hf:reviews:train:label, row 0 \(counted from 0\) is int, expected a string"
    with pytest.raises(DataError, match=message):
        open_documents("hf:reviews:train:label")


def test_a_folder_without_data_or_with_broken_ones_is_refused(folder: Path):
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match=r"hf:reviews/empty cannot be read \(EmptyDatasetError: "):
        open_documents("hf:reviews/empty")
    (folder / "train.jsonl").write_text('{"text": "one"}\n{"text": \n')
    with pytest.raises(DataError, match=r"hf:reviews cannot be read \(.*Check its files"):
        list(open_documents("hf:reviews"))


def test_a_folder_with_a_script_runs_nothing(tmp_path: Path):
    (tmp_path / f"{tmp_path.name}.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(DataError, match="cannot be read"):
        open_documents(f"hf:{tmp_path}")


# ---- the Hub -------------------------------------------------------------------------------------


@pytest.fixture
def streamed(monkeypatch) -> list[str]:
    """A stand-in for a data set on the Hub; tells which rows came through the network."""
    rows_sent: list[str] = []

    def rows() -> Any:
        for n in range(1_000):
            rows_sent.append(f"text {n}")
            yield {"text": f"text {n}", "label": n}

    def load(place: str, subset: str | None, *, streaming: bool) -> Any:
        assert streaming
        if subset is None:
            raise ValueError("Config name is missing. Please pick one among: ['en', 'de']")
        split = datasets.IterableDataset.from_generator(rows)
        return datasets.IterableDatasetDict({"train": split})

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *_, **__: None)
    return rows_sent


def test_a_data_set_on_the_hub_comes_through_the_network_once(streamed: list[str]):
    documents = open_documents("hf:user/name/en")
    assert isinstance(documents, Spool)
    assert len(streamed) < 10  # nothing was read ahead
    for _ in range(3):
        assert found(documents) == [(f"text {n}", n) for n in range(1_000)]
    assert len(streamed) < 1_010
    assert next(iter(documents)).name == "hf:user/name/en, row 0 (counted from 0)"


def test_a_subset_that_is_missing_is_asked_for(streamed: list[str]):
    message = r"Config name is missing.*If it has several subsets, name one: hf:user/name/SUBSET"
    with pytest.raises(DataError, match=message):
        open_documents("hf:user/name")


def test_without_a_connection_the_error_comes_soon_and_says_what_to_check(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", "http://127.0.0.1:9")
    started = time.monotonic()
    with pytest.raises(HubError, match=r"Could not read 'user/name' on .*Check the connection"):
        open_documents("hf:user/name:train:text")
    assert time.monotonic() - started < 20


def test_offline_mode_is_named(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match=r"HF_HUB_OFFLINE is set, so 'user/name' cannot be reached"):
        open_documents("hf:user/name")


@pytest.mark.parametrize("text", ["hf:-user/name", "hf:user/na\\me"])
def test_what_cannot_be_a_name_is_refused(text: str):
    with pytest.raises(ConfigError, match="cannot be the name of a repository"):
        open_documents(text)


def test_documents_are_documents(folder: Path):
    assert all(isinstance(document, Document) for document in open_documents("hf:reviews"))
