"""The course of fits in a file, one JSON object in each line."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from clvq_lens.errors import FileFormatError, PathTakenError
from clvq_lens.training.callback import FitEnd, FitStart
from clvq_lens.training.history import Record
from clvq_lens.writing import check_file, path_errors

_FIRST = b'{"event": "begin"'
"""What the first line of every log begins with, so that no other file is appended to."""


class JSONLines:
    """Appends each record of a fit to a file, as one line.

    A fit begins with a line of event "begin", which holds what `clvq_lens.Callback` is told then;
    lines of event "record" hold the fields of a record, and "end" says how the fit stopped. Several
    fits may follow one another in a file. Numbers that are not finite are null. A process that is
    killed leaves at most one line that is cut off; the next fit removes it. A resumed fit goes on
    in the same file, and what is there already is not written again.

    Args:
        path: Path of the file; its folder exists.

    Raises:
        PathError: If the file cannot be written.

    Example:
        >>> lens.fit(texts, callbacks=[cl.callbacks.JSONLines("fit.jsonl")])
        >>> pd.read_json("fit.jsonl", lines=True).query("event == 'record'")
    """

    def __init__(self, path: str | Path) -> None:
        self._path = check_file(path)
        self._last_step = 0

    def on_begin(self, start: FitStart) -> None:
        """Mends the end of the file, and writes the options of the fit.

        Raises:
            PathTakenError: If the file is not a log of fits.
            FileFormatError: If a line of it is damaged.
            PathError: If the file cannot be written.
        """
        with path_errors(self._path):
            _cut_off_torn_line(self._path)
        # Up to which step the file has records of this fit: if it was killed, perhaps beyond the
        # checkpoint that it goes on from.
        self._last_step = 0 if start.resumed_from is None else _last_step(self._path, start)
        self._append("begin", asdict(start))

    def on_record(self, record: Record) -> None:
        """Writes a record, unless the file has it.

        Raises:
            PathError: If the file cannot be written.
        """
        if record.step > self._last_step:
            self._append("record", asdict(record))

    def on_end(self, end: FitEnd) -> None:
        """Writes how the fit ended.

        Raises:
            PathError: If the file cannot be written.
        """
        error = None if end.error is None else f"{type(end.error).__name__}: {end.error}"
        self._append("end", {"stop": end.stop, "best_step": end.best_step, "error": error})

    def _append(self, event: str, values: Mapping[str, Any]) -> None:
        fields: dict[str, Any] = {"event": event}
        for name, value in values.items():
            is_infinite = isinstance(value, float) and not math.isfinite(value)
            fields[name] = None if is_infinite else value  # JSON has no NaN and no infinity
        line = json.dumps(fields).encode() + b"\n"
        with path_errors(self._path), self._path.open("ab") as file:
            file.write(line)  # in one piece, when the file is closed


def _cut_off_torn_line(path: Path) -> None:
    """Removes what follows the last line break, which a killed process left.

    Raises:
        PathTakenError: If the file is not a log of fits.
    """
    if not path.exists():
        return
    with path.open("rb+") as file:
        first = file.read(len(_FIRST))
        # A log that was torn in its very first line has less of it.
        if first != _FIRST and not (len(first) < len(_FIRST) and _FIRST.startswith(first)):
            raise PathTakenError(
                f"{path} is not a log of fits, and is left as it is. Pass the path of a new file."
            )
        n_whole_bytes = 0
        file.seek(0)
        for line in file:
            if line.endswith(b"\n"):
                n_whole_bytes += len(line)
        file.truncate(n_whole_bytes)


def _last_step(path: Path, start: FitStart) -> int:
    """Step of the last record of this fit in the file; 0 if there is none."""
    step, is_this_fit = 0, False
    for fields in _lines(path):
        if fields["event"] == "begin":
            names = ("lens", "source", "target", "config")
            is_this_fit = all(fields[name] == getattr(start, name) for name in names)
            if is_this_fit and fields["resumed_from"] is None:
                step = 0
        elif fields["event"] == "record" and is_this_fit:
            step = fields["step"]
    return step


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a log.

    Raises:
        FileFormatError: If one is damaged.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield _parsed(line)
            except (ValueError, TypeError, KeyError) as error:
                raise FileFormatError(
                    f"{path}, line {number} is damaged: {error}. Delete the line, or pass another "
                    f"path."
                ) from error


def _parsed(line: bytes) -> dict[str, Any]:
    """The fields of a line; raises an error if one that is read here has another kind."""
    fields = json.loads(line)
    if fields["event"] == "begin":
        _ = fields["lens"], fields["source"], fields["target"], fields["config"]
        _ = fields["resumed_from"]
    elif fields["event"] == "record":
        fields["step"] = int(fields["step"])
    return fields
