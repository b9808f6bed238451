"""Run: how the quantizer in a folder came about, so that its page can be written again."""

import csv
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd

from clvq_lens.config import FitConfig
from clvq_lens.errors import ConfigError, FileFormatError
from clvq_lens.training.history import History, Record
from clvq_lens.writing import write_atomically

_FILE = "run.json"
_FIELDS = {"format", "format_version", "library_version", "model", "dtype", "prepend_bos"} | {
    *("data", "held_out", "toy_texts", "fit", "history")
}
FORMAT_VERSION = 2
# What reading a file raises that somebody, or a disk, has changed.
_DAMAGE = (ValueError, TypeError, KeyError, IndexError, RecursionError, csv.Error)


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a command did.

    Attributes:
        model: As the user named it.
        dtype: Of its weights; None: the default.
        prepend_bos: Whether it read BOS before each text; None: the default.
        data: Path of the texts; None: of the toy world.
        held_out: Path of the texts to evaluate on; None: the part of the data kept aside.
        toy_texts: Number and seed of held-out texts of the toy world; None: the user's own data.
        fit: The options of the fit.
        ended: How the fit ended: the fields of `History` but its records.
    """

    model: str
    dtype: str | None = None
    prepend_bos: bool | None = None
    data: str | None
    held_out: str | None
    toy_texts: tuple[int, int] | None
    fit: FitConfig
    ended: Mapping[str, Any] | None = None


def write_run(folder: Path, run: Run, history: History) -> None:
    """Writes run.json beside a saved quantizer.

    Args:
        folder: Of the quantizer.
        run: What was done.
        history: Of its fit.
    """
    from clvq_lens import __version__

    ended = {name: getattr(history, name) for name in _history_fields()}
    values = {
        "format": "clvq_lens run",
        "format_version": FORMAT_VERSION,
        "library_version": __version__,
        "model": run.model,
        "dtype": run.dtype,
        "prepend_bos": run.prepend_bos,
        "data": run.data,
        "held_out": run.held_out,
        "toy_texts": run.toy_texts,
        "fit": asdict(run.fit),
        "history": ended,
    }
    write_atomically(folder / _FILE, (json.dumps(values, indent=2) + "\n").encode())


def read_run(folder: Path) -> Run:
    """Reads what `write_run` wrote.

    Raises:
        FileFormatError: If the folder holds no run, or a damaged one.
    """
    path = folder / _FILE
    if not path.is_file():
        raise FileFormatError(
            f"{folder} is no run: it has no {_FILE}. Pass the folder that clvq-lens fit or "
            f"clvq-lens demo wrote."
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if set(values) != _FIELDS or values["format_version"] != FORMAT_VERSION:
            raise ValueError(f"its fields are {sorted(values)}, expected {sorted(_FIELDS)}")
        toy_texts = values["toy_texts"]
        return Run(
            model=values["model"],
            dtype=values["dtype"],
            prepend_bos=values["prepend_bos"],
            data=values["data"],
            held_out=values["held_out"],
            toy_texts=None if toy_texts is None else (int(toy_texts[0]), int(toy_texts[1])),
            fit=FitConfig().replace(**values["fit"]),
            ended={name: values["history"][name] for name in _history_fields()},
        )
    except (*_DAMAGE, ConfigError) as error:
        raise FileFormatError(f"{path} is damaged: {error}. Fit again.") from error


def write_history(path: Path, history: History) -> None:
    """Writes the records as a table.

    Args:
        path: Of the .csv file.
        history: Of a fit.
    """
    write_table(path, history.frame())


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Writes a table as .csv, in one step."""
    write_atomically(path, table.to_csv(index=False).encode())


def read_history(path: Path, run: Run) -> History | None:
    """The history of a run; None where its table is gone.

    Args:
        path: Of the .csv file.
        run: Which knows how the fit ended.

    Raises:
        FileFormatError: If the table is not one of a fit.
    """
    if not path.is_file():
        return None
    names = [field.name for field in fields(Record)]
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            if list(rows.fieldnames or ()) != names:
                raise ValueError(f"it has the columns {rows.fieldnames}, expected {names}")
            records = [Record(**{name: _number(row[name]) for name in names}) for row in rows]
    except _DAMAGE as error:
        raise FileFormatError(f"{path} is damaged: {error}. Fit again.") from error
    return History(records=records, **(run.ended or {}))


def _number(cell: str) -> Any:
    return json.loads(cell) if cell else None


def _history_fields() -> list[str]:
    return [field.name for field in fields(History) if field.name != "records"]
