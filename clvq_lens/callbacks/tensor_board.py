"""The course of a fit for TensorBoard."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from clvq_lens.errors import MissingDependencyError
from clvq_lens.training.callback import FitEnd, FitStart
from clvq_lens.training.history import Record
from clvq_lens.writing import make_folder

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoard:
    """Writes each record of a fit to a folder that ``tensorboard --logdir`` shows.

    The fields of a record are curves over steps, such as "4-8/held_out_fvu" for the lens "4-8"; the
    options of the fit are a text. A resumed fit goes on in the same folder. Give each fit a folder
    of its own: TensorBoard draws one folder as one run.

    Args:
        folder: Folder for the event files; created if needed.

    Raises:
        MissingDependencyError: If the package tensorboard is not installed.
        PathError: If the folder cannot be written to.

    Example:
        >>> lens.fit(texts, callbacks=[cl.callbacks.TensorBoard("runs/first")])
    """

    def __init__(self, folder: str | Path) -> None:
        _writer_class()  # before the fit has read its data
        self._folder = make_folder(folder)
        self._lens = ""
        self._writer: SummaryWriter | None = None

    def on_begin(self, start: FitStart) -> None:
        """Opens an event file, and writes the options of the fit."""
        # Hides what a killed fit wrote after the checkpoint, which now comes again.
        purge_step = None if start.resumed_from is None else start.resumed_from + 1
        self._lens = start.lens
        self._writer = _writer_class()(str(self._folder), purge_step=purge_step)
        options = json.dumps(asdict(start), indent=4)
        as_code = options.replace("\n", "\n    ")  # indented text is code in Markdown
        self._writer.add_text(f"{start.lens}/fit", f"    {as_code}", start.resumed_from or 0)
        self._writer.flush()

    def on_record(self, record: Record) -> None:
        """Adds a point to every curve."""
        assert self._writer is not None
        for name, value in asdict(record).items():
            if name != "step" and value is not None:
                self._writer.add_scalar(f"{self._lens}/{name}", value, record.step)
        self._writer.flush()  # a thread writes, and a kill would lose what waits for it

    def on_end(self, end: FitEnd) -> None:
        """Writes how the fit ended, and closes the event file."""
        assert self._writer is not None
        stopped = f"{end.stop}; weights of step {end.best_step}"
        self._writer.add_text(f"{self._lens}/end", stopped, end.best_step)
        self._writer.close()
        self._writer = None


def _writer_class() -> "type[SummaryWriter]":
    """The class that writes event files.

    Raises:
        MissingDependencyError: If the package tensorboard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingDependencyError(
            f"TensorBoard needs the package tensorboard, which cannot be imported ({error}). Run: "
            f"pip install 'tensorboard>=2.15'"
        ) from error
    return SummaryWriter
