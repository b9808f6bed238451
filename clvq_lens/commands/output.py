"""What a command leaves behind: its folder, in which no fit is ever lost, and printed tables."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from clvq_lens.commands.refusals import holds_quantizer
from clvq_lens.commands.run import Run, write_history, write_run
from clvq_lens.data.interrupt import deferred_interrupt
from clvq_lens.errors import CommandInterruptedError, PathError
from clvq_lens.evaluation.evaluation import Evaluation
from clvq_lens.lens import Lens
from clvq_lens.quantizer.files import check_folder
from clvq_lens.quantizer.saved import CONFIG
from clvq_lens.showing import told_apart
from clvq_lens.training.history import History
from clvq_lens.writing import locked

NOTHING = "Nothing was written."
"""Said where a command is interrupted early."""

_TABLES = ("history.csv", "evaluation.csv", "concepts.csv", "recovery.csv")
_PAGES = ("index.html", "report.html")
_OLD_NAMES = ("report.csv",)  # evaluation.csv in earlier versions
_OF_EARLIER_RUN = ("run.json", *_TABLES, *_PAGES, *_OLD_NAMES)


@contextmanager
def output_folder(out: Path, *, overwrite: bool) -> Iterator[None]:
    """While open, the folder exists and no other command writes to it.

    Args:
        out: The folder; created if needed, and removed again if nothing was written to it.
        overwrite: Whether a quantizer in it may be replaced.

    Raises:
        PathTakenError: If the folder holds a quantizer that may not be replaced.
        PathError: If nothing can be written to it, or another command is writing to it.
    """
    is_new = not out.exists()
    check_folder(out)
    try:
        if (out / CONFIG).is_file() and not overwrite:
            raise holds_quantizer(out)
        # Without waiting: the other command may take hours.
        with locked(out / ".clvq_lens-run.lock", wait_s=0.0):
            yield
    finally:
        if is_new:
            # Fails, as it should, if there is something in the folder.
            with suppress(OSError):
                out.rmdir()


@contextmanager
def interruptible(doing: str, state: str) -> Iterator[None]:
    """Turns Ctrl-C into an error that says what was interrupted and what has been saved.

    Args:
        doing: What is done meanwhile, such as "loading the model".
        state: What has been saved by now, and how to go on: whole sentences.

    Raises:
        CommandInterruptedError: On Ctrl-C.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        raise CommandInterruptedError(f"Interrupted while {doing}. {state}") from error


def save_fit(lens: Lens, run: Run, history: History, out: Path) -> None:
    """Saves a fit, with what a report on it needs; in a temporary folder if ``out`` fails.

    Args:
        lens: The fitted lens.
        run: What was done.
        history: History of the fit.
        out: The folder.

    Raises:
        PathError: If it had to be saved elsewhere; the message says where.
        KeyboardInterrupt: After saving, if Ctrl-C was pressed meanwhile.
    """
    with deferred_interrupt() as pressed:
        try:
            _write_fit(lens, run, history, out)
        except OSError as error:
            rescue = Path(tempfile.mkdtemp(prefix="clvq-lens-"))
            _write_fit(lens, run, history, rescue)
            raise PathError(f"{error} The fitted quantizer is in {rescue} instead.") from error
    if pressed():
        raise KeyboardInterrupt


def _write_fit(lens: Lens, run: Run, history: History, folder: Path) -> None:
    # The quantizer first: if that fails, the files of the earlier run still fit the old one.
    lens.save(folder)
    for name in _OF_EARLIER_RUN:
        (folder / name).unlink(missing_ok=True)
    write_run(folder, run, history)
    write_history(folder / "history.csv", history)


def print_evaluation(console: Console, title: str, evaluation: Evaluation) -> None:
    """Prints an evaluation, with both ends of an interval in one column.

    Args:
        console: Where it is printed.
        title: Title of the table.
        evaluation: What ``lens.evaluate`` returned.
    """
    frame = evaluation.frame()
    numbers = frame[["value", "low", "high"]].astype(float).to_numpy()
    # As text, in digits that tell a value from the ends of its interval.
    values: list[str] = []
    intervals: list[str] = []
    for value, low, high in (told_apart(*row) for row in numbers):
        values.append(value)
        intervals.append(f"{low} to {high}" if low else "")
    columns = {
        "metric": frame["metric"],
        "value": values,
        "95 % interval": intervals,
        "meaning": frame["meaning"],
    }
    print_table(console, title, pd.DataFrame(columns))


def print_table(console: Console, title: str, frame: pd.DataFrame) -> None:
    """Prints a table with short numbers.

    Args:
        console: Where it is printed.
        title: Title of the table.
        frame: The table.
    """
    # Escaped everywhere: rich reads text in square brackets as markup.
    table = Table(title=escape(title), title_justify="left")
    for column in frame.columns:
        numeric = pd.api.types.is_numeric_dtype(frame[column])
        # Numbers and names stay whole in a narrow terminal; meanings are sentences, and may wrap.
        table.add_column(
            column, justify="right" if numeric else "left", no_wrap=column != "meaning"
        )
    for row in frame.itertuples(index=False):
        table.add_row(*(escape(_short_text(value)) for value in row))
    console.print(table)


def _short_text(value: object) -> str:
    if isinstance(value, float):
        return "" if pd.isna(value) else f"{value:.4g}"
    return "" if value is None else str(value)
