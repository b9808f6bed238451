"""The folder that a command writes to: what may be overwritten, and that a fit is never lost."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from clvq_lens.errors import CommandInterruptedError, PathError, PathTakenError
from clvq_lens.lens import Lens
from clvq_lens.quantizer.files import check_folder
from clvq_lens.quantizer.saved import CONFIG
from clvq_lens.training.history import History
from clvq_lens.training.interrupt import deferred_interrupt
from clvq_lens.training.run import Run, write_history, write_run
from clvq_lens.writing import locked

_OF_A_RUN = ("run.json", "history.csv", "report.csv", "concepts.csv", "recovery.csv")
_PAGES = ("index.html", "report.html")


@contextmanager
def output_folder(out: Path, *, overwrite: bool) -> Iterator[None]:
    """While open, the folder is there and no other command writes to it.

    Args:
        out: Created if needed; removed again if nothing was written to it.
        overwrite: Whether it may hold a quantizer.

    Raises:
        PathTakenError: If the folder holds a quantizer that may not be overwritten.
        PathError: If it cannot be written to, or another command is at it.
    """
    is_new = not out.exists()
    check_folder(out)
    try:
        if (out / CONFIG).is_file() and not overwrite:
            raise PathTakenError(
                f"{out} holds a fitted quantizer already. Pass another folder, or --overwrite to "
                f"replace it."
            )
        with locked(out / ".clvq_lens-run.lock", wait_s=0.0):
            yield
    finally:
        if is_new:
            with suppress(OSError):  # which is what happens if there is something in it
                out.rmdir()


@contextmanager
def interruptible(doing: str, go_on: str) -> Iterator[None]:
    """Turns Ctrl-C into an error that says what was interrupted, and what is there already."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise CommandInterruptedError(f"Interrupted while {doing}. {go_on}") from error


def save_fit(lens: Lens, run: Run, history: History, out: Path) -> None:
    """Saves a fit, with what is needed to report on it; if not where it should be, then elsewhere.

    Raises:
        PathError: If it had to be saved elsewhere; the message says where.
        KeyboardInterrupt: After it was saved, if Ctrl-C was pressed meanwhile.
    """
    with deferred_interrupt() as pressed:
        try:
            _save_fit(lens, run, history, out)
        except OSError as error:
            rescue = Path(tempfile.mkdtemp(prefix="clvq-lens-"))
            _save_fit(lens, run, history, rescue)
            raise PathError(f"{error} The fitted quantizer is in {rescue} instead.") from error
    if pressed():
        raise KeyboardInterrupt


def _save_fit(lens: Lens, run: Run, history: History, folder: Path) -> None:
    lens.save(folder)
    for name in _OF_A_RUN + _PAGES:  # of an earlier run, whose quantizer has just been replaced
        (folder / name).unlink(missing_ok=True)
    write_run(folder, run, history)
    write_history(folder / "history.csv", history)
