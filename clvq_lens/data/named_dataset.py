"""Data sets of Hugging Face by name, such as "hf:stanfordnlp/imdb:train:text"."""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

from clvq_lens.arguments import closest
from clvq_lens.data.document import Corpus
from clvq_lens.data.items import Items, text_column
from clvq_lens.data.text_files import Spool
from clvq_lens.errors import CLVQError, DataError
from clvq_lens.hub_errors import hub_errors

_FORM = "hf:NAME, hf:NAME:SPLIT or hf:NAME:SPLIT:COLUMN"
_NAMED = re.compile(r"hf:([^:\n]*)(:[^:\s]*(:.*)?)?")
_HUB_WAIT_S = 20.0
_SHOWN = 500  # characters of a message of another library


def names_dataset(text: str) -> bool:
    """Whether a string names a data set, rather than being a text or a path."""
    match = _NAMED.fullmatch(text)
    if match is None:
        return False
    # With white space it is a text, such as "hf: high frequency", unless there is a folder.
    place = match[1]
    return not re.search(r"\s", place) or os.path.isdir(place)


@dataclass(frozen=True, kw_only=True)
class DatasetName:
    """The parts of a name.

    Attributes:
        place: Name of a repository on the Hub, or path of a folder.
        subset: Name of the subset, which some repositories have; None: there is one only.
        split: Name of the split; None: "train", or the only one.
        column: Name of the column; None: "text", the only one, or "input_ids".
    """

    place: str
    subset: str | None = None
    split: str | None = None
    column: str | None = None

    @classmethod
    def parsed(cls, text: str) -> "DatasetName":
        """The parts of "hf:NAME[:SPLIT[:COLUMN]]"; NAME is a folder, user/name or user/name/subset.

        Raises:
            DataError: If a part is empty, or the name is a path without a folder.
        """
        # Columns may have colons in their names, and nothing follows them.
        parts = text.removeprefix("hf:").split(":", 2)
        if not all(part.strip() for part in parts):
            raise DataError(
                f"{text!r} lacks a part: expected {_FORM}. If it is a text, pass [{text!r}]."
            )
        split = parts[1] if len(parts) > 1 else None
        column = parts[2] if len(parts) > 2 else None
        place = os.path.expanduser(parts[0])  # noqa: PTH111  # most are names, and no paths
        name = cls(place=place, split=split, column=column)
        if name.is_local:
            return name
        if place.startswith((".", "/", "~")) or place.count("/") > 2:
            raise DataError(
                f"There is no folder {place} for {text!r}. Pass the path of a folder with data "
                f"files, or the name of a data set on the Hub: {_FORM}."
            )
        if place.count("/") == 2:
            repository, _, subset = place.rpartition("/")
            return replace(name, place=repository, subset=subset)
        return name

    @property
    def is_local(self) -> bool:
        """Whether it is a folder; if not, it is on the Hub."""
        return os.path.isdir(self.place)

    def absolute(self) -> "DatasetName":
        """The same, and from every folder."""
        return replace(self, place=str(Path(self.place).absolute())) if self.is_local else self

    def __str__(self) -> str:
        place = self.place if self.subset is None else f"{self.place}/{self.subset}"
        rest = [part for part in (self.split, self.column) if part is not None]
        return ":".join(["hf", place, *rest])


def open_dataset(text: str) -> Items | Spool:
    """The documents of a data set; one of the Hub is streamed, and copied as far as it is read.

    Args:
        text: Its name; see `DatasetName`.

    Raises:
        DataError: If there is no such folder, split or column, or the data cannot be read.
        HubError: If the Hub cannot be reached, or does not give the data set.
        ConfigError: If it cannot be the name of a repository.
    """
    name = DatasetName.parsed(text)
    rows = _DatasetRows(name)
    corpus = Corpus(str(name), unit="row")
    if name.is_local:
        return Items(rows, rows.column, corpus)
    # A fit reads its data many times, and they should come through the network once.
    return Spool(rows, rows.column, corpus)


class _DatasetRows:
    """The rows of a split as mappings, with the column of the documents and their masks alone."""

    def __init__(self, name: DatasetName) -> None:
        self._name = name
        if not name.is_local:
            # Asked first, because `datasets` tries for half a minute before it says anything.
            with hub_errors(name.place, None, "read"):
                HfApi().dataset_info(name.place, timeout=_HUB_WAIT_S)
        with _explained(name):
            dataset = self._split_of(_loaded(name))
            # The columns of files in JSON are known once they are read.
            columns = list(dataset.column_names or next(iter(dataset), {}))
            self.column = self._column_of(columns)
            wanted = [self.column]
            if self.column == "input_ids" and "attention_mask" in columns:
                wanted.append("attention_mask")
            self._dataset = dataset.select_columns(wanted)

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        with _explained(self._name):
            yield from self._dataset

    def _split_of(self, splits: Mapping[str, Any]) -> Any:
        names, wanted = list(splits), self._name.split
        if wanted is None:
            if len(names) > 1 and "train" not in names:
                raise DataError(
                    f"{self._name} has the splits {names}. Name one: {self._name}:{names[0]}."
                )
            wanted = "train" if "train" in names else names[0]
        if wanted not in names:
            raise DataError(
                f"{self._name}: there is no split {wanted!r}. {closest(wanted, names)}The splits "
                f"are {names}."
            )
        return splits[wanted]

    def _column_of(self, columns: list[str]) -> str:
        wanted = self._name.column
        if wanted is None:
            with_column = replace(self._name, split=self._name.split or "train", column="COLUMN")
            return text_column(columns, str(self._name), f"Name one: {with_column}.")
        if wanted not in columns:
            raise DataError(
                f"{self._name}: there is no column {wanted!r}. {closest(wanted, columns)}The "
                f"columns are {columns}."
            )
        return wanted


def _loaded(name: DatasetName) -> dict[str, Any]:
    """The splits of a data set, streamed."""
    from datasets import load_dataset  # takes seconds, and most data are no data sets

    # All splits, which costs nothing as long as none is read, so that errors can name them.
    splits = load_dataset(name.place, name.subset, streaming=True)
    return {str(split): dataset for split, dataset in splits.items()}


@contextmanager
def _explained(name: DatasetName) -> Iterator[None]:
    """Turns what `datasets` raises, which is of any type, into an error that says what to do."""
    try:
        yield
    except CLVQError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:_SHOWN]
        remedy = "Check its files."
        if not name.is_local:
            remedy = f"If it has several subsets, name one: hf:{name.place}/SUBSET."
        raise DataError(
            f"{name} cannot be read ({type(error).__name__}: {said}). {remedy}"
        ) from error
