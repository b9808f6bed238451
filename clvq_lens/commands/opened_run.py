"""A run that is opened again: its quantizer on its model, with data to look at it on."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from clvq_lens.add import add_clvq
from clvq_lens.commands.command_data import EvaluationData, held_out_of, other_data
from clvq_lens.commands.command_model import ModelChoice
from clvq_lens.commands.output import NOTHING, interruptible
from clvq_lens.commands.run import Run, read_run
from clvq_lens.data.documents import open_documents
from clvq_lens.evaluation.evaluation import Evaluation
from clvq_lens.lens import Lens
from clvq_lens.quantizer.files import load

OF_RUN = ModelChoice(name="")
"""The model of the run, as it was loaded then."""


@dataclass(frozen=True, kw_only=True)
class OpenedRun:
    """A run that is opened again.

    Attributes:
        run: What was done.
        lens: Its quantizer on its model.
        held_out: Data to look at it on.
    """

    run: Run
    lens: Lens
    held_out: EvaluationData


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """What a command measured of a run.

    Attributes:
        run: What was done.
        evaluation: How well its codes stand for the target.
        held_out: The data that it was evaluated on.
        written: The page or table that was written.
    """

    run: Run
    evaluation: Evaluation
    held_out: EvaluationData
    written: Path


@contextmanager
def opened_run(folder: Path, model: ModelChoice, data: str | Path | None) -> Iterator[OpenedRun]:
    """While open, the quantizer of a run is on its model.

    Args:
        folder: Folder that ``clvq-lens fit`` or ``demo`` wrote.
        model: The model, where it is to be another one than that of the run.
        data: Texts, as for `data_at`; None: those that the run kept aside.

    Raises:
        FileFormatError: If the folder is not a run.
        DataError: If the data of the run no longer exist.
        CommandInterruptedError: On Ctrl-C.
    """
    run, quantizer = read_run(folder), load(folder)
    # As in the fit: BOS and the bits of weights decide what the codes of a text are.
    choice = replace(
        model,
        name=model.name or run.model,
        dtype=model.dtype or run.dtype,
        prepend_bos=run.prepend_bos,
        quantize=run.quantize,
    )
    with interruptible("reading the data", NOTHING):
        held_out = held_out_of(run) if data is None else other_data(run, data)
        open_documents(held_out.data)
    with interruptible("loading the model", NOTHING):
        lens = add_clvq(choice.load(), quantizer=quantizer)
    try:
        yield OpenedRun(run=run, lens=lens, held_out=held_out)
    finally:
        lens.remove()
