"""Run: where the quantizer in a folder came from, so that its page can be written again."""

import csv
import json
from dataclasses import asdict, dataclass, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from clvq_lens.commands.refusals import RUN, RUN_FORMAT_VERSION, check_run
from clvq_lens.config import CLVQConfig, FitConfig
from clvq_lens.errors import ConfigError, FileFormatError
from clvq_lens.training.history import History, Record
from clvq_lens.writing import write_atomically

_WITHOUT_QUANTIZER = 2  # a version that did not say what was fitted, and where
_FIELDS = {
    "format",
    "format_version",
    "library_version",
    "model",
    "dtype",
    "prepend_bos",
    "quantize",
    "device",
    "device_map",
    "source",
    "target",
    "data",
    "held_out",
    "toy_texts",
    "quantizer",
    "fit",
    "history",
}
_SINCE_THEN = ("device", "device_map", "source", "target", "quantizer", "quantize")
_TEXTS = ("model", "dtype", "quantize", "device", "device_map", "data", "held_out")
# Fields of a history that are not kept: records have a file of their own.
_OF_THE_MOMENT = ("records", "seconds")
# What reading raises when somebody has edited the file, or a disk has damaged it.
_DAMAGE = (ValueError, TypeError, KeyError, IndexError, RecursionError, csv.Error)


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a command did: everything that decides what a fit ends with.

    Attributes:
        model: Name of the model, as the user gave it.
        dtype: Type of the model's weights; None: the default.
        prepend_bos: Whether the model read BOS before each text; None: the default.
        quantize: Bits of the model's weights, "4bit" or "8bit"; None: they stayed as they were.
        device: Device of the model that was asked for; None: the default.
        device_map: Devices of its parts that were asked for; None: it had one.
        source: Layer or hook point that was read; None: not known.
        target: Layer or hook point that was reconstructed; None: not known.
        data: Path or name of the texts; None: texts of the toy world.
        held_out: The same of the texts to evaluate on; None: the part of the data kept aside.
        toy_texts: Number and seed of held-out texts of the toy world; None: the user's own data.
        quantizer: The options of the quantizer; None: those in its own file.
        config: The options of the fit.
        ended: How the fit ended: its history without the records, which have a file of their own.
    """

    model: str
    dtype: str | None = None
    prepend_bos: bool | None = None
    quantize: str | None = None
    device: str | None = None
    device_map: str | None = None
    source: int | str | None = None
    target: int | str | None = None
    data: str | None
    held_out: str | None
    toy_texts: tuple[int, int] | None
    quantizer: CLVQConfig | None = None
    config: FitConfig
    ended: History | None = None


def write_run(folder: Path, run: Run, history: History) -> None:
    """Writes run.json beside a saved quantizer.

    Args:
        folder: Folder of the quantizer.
        run: What was done.
        history: History of the fit.
    """
    values = run_values(replace(run, ended=replace(history, records=[])))
    write_atomically(folder / RUN, (json.dumps(values, indent=2) + "\n").encode())


def run_values(run: Run) -> dict[str, Any]:
    """What the file of a run holds; `clvq-lens fit --config` takes it, and does the same again.

    Args:
        run: What was done.
    """
    ended = asdict(run.ended or History())
    del ended["records"], ended["seconds"]
    return {
        "format": "clvq_lens run",
        "format_version": RUN_FORMAT_VERSION,
        "library_version": version("clvq-lens"),
        "model": run.model,
        "dtype": run.dtype,
        "prepend_bos": run.prepend_bos,
        "quantize": run.quantize,
        "device": run.device,
        "device_map": run.device_map,
        "source": run.source,
        "target": run.target,
        "data": run.data,
        "held_out": run.held_out,
        "toy_texts": run.toy_texts,
        "quantizer": None if run.quantizer is None else asdict(run.quantizer),
        "fit": asdict(run.config),
        "history": ended,
    }


def read_run(folder: Path) -> Run:
    """Reads what `write_run` wrote.

    Args:
        folder: Folder of the quantizer.

    Raises:
        FileFormatError: If the folder holds no run, or a damaged one.
    """
    check_run(folder)
    path = folder / RUN
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["format_version"] == _WITHOUT_QUANTIZER:
            values = dict.fromkeys(_SINCE_THEN) | values
        elif values["format_version"] != RUN_FORMAT_VERSION:
            raise ValueError(f"its format version is {values['format_version']!r}")
        if set(values) != _FIELDS:
            raise ValueError(f"its fields are {sorted(values)}, expected {sorted(_FIELDS)}")
        for name in _TEXTS:
            if not isinstance(values[name], str | None):
                raise ValueError(f"its {name} is {values[name]!r}, expected a text or null")
        toy_texts, quantizer = values["toy_texts"], values["quantizer"]
        return Run(
            model=values["model"],
            dtype=values["dtype"],
            prepend_bos=values["prepend_bos"],
            quantize=values["quantize"],
            device=values["device"],
            device_map=values["device_map"],
            source=values["source"],
            target=values["target"],
            data=values["data"],
            held_out=values["held_out"],
            # JSON has lists only; by index, so that a shorter one counts as damage.
            toy_texts=None if toy_texts is None else (int(toy_texts[0]), int(toy_texts[1])),
            # `replace` checks the names of the options, and so finds those of another version.
            quantizer=None if quantizer is None else CLVQConfig().replace(**quantizer),
            config=FitConfig().replace(**values["fit"]),
            ended=_history_without_records(values["history"]),
        )
    except (*_DAMAGE, ConfigError) as error:
        raise FileFormatError(f"{path} is damaged: {error}. Fit again.") from error


def _history_without_records(values: dict[str, Any]) -> History:
    """How a fit ended. A missing field is an error; what a later version added is left out."""
    ended = {}
    for field in fields(History):
        if field.name not in _OF_THE_MOMENT:
            ended[field.name] = values[field.name]
    return History(**ended)


def write_history(path: Path, history: History) -> None:
    """Writes the records of a fit as a table.

    Args:
        path: Path of the .csv file.
        history: History of the fit.
    """
    write_table(path, history.frame())


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Writes a table as .csv, in one step.

    Args:
        path: Path of the .csv file.
        table: The table, whose index is left out.
    """
    write_atomically(path, table.to_csv(index=False).encode())


def read_history(path: Path, run: Run) -> History | None:
    """The history of a run; None if its table was deleted.

    Args:
        path: Path of the .csv file.
        run: The run, which says how the fit ended.

    Raises:
        FileFormatError: If the table is damaged, or is not one of a fit.
    """
    if not path.is_file():
        return None
    columns = [field.name for field in fields(Record)]
    records = []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            if list(rows.fieldnames or ()) != columns:
                raise ValueError(f"it has the columns {rows.fieldnames}, expected {columns}")
            for row in rows:
                values = {column: _parsed(row[column]) for column in columns}
                records.append(Record(**values))
    except _DAMAGE as error:
        raise FileFormatError(f"{path} is damaged: {error}. Fit again.") from error
    return replace(run.ended or History(), records=records)


def _parsed(cell: str) -> Any:
    # Not by pandas: its reader is not exact to the last bit, and makes floats of integers in a
    # column with empty cells.
    return json.loads(cell) if cell else None
