"""``clvq-lens fit``: a fit on the data of a user."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from clvq_lens.add import add_clvq
from clvq_lens.commands.command_data import data_at, lasting, read_through
from clvq_lens.commands.command_model import ModelChoice
from clvq_lens.commands.fit_and_write import NO_CHECKPOINTS, Checkpointing, fit_and_write
from clvq_lens.commands.opened_run import Evaluated
from clvq_lens.commands.output import (
    NOTHING,
    interruptible,
    output_folder,
)
from clvq_lens.commands.run import Run
from clvq_lens.commands.together import were_restarted
from clvq_lens.config import CLVQConfig, FitConfig
from clvq_lens.data.store.store import ActivationStore
from clvq_lens.processes import Processes
from clvq_lens.training.callback import Callback
from clvq_lens.training.checkpoint import check_resume, holds_checkpoints


def run_fit(
    model: ModelChoice,
    source: int | str,
    target: int | str,
    data: str | Path,
    out: Path,
    *,
    held_out: str | Path | None,
    options: Mapping[str, object],
    fit_options: Mapping[str, object],
    overwrite: bool = False,
    checkpointing: Checkpointing = NO_CHECKPOINTS,
    callbacks: Sequence[Callback] = (),
) -> Evaluated:
    """Fits on a user's data and writes the results.

    Args:
        model: The model.
        source: Layer number or hook point that is read.
        target: Layer number or hook point that is reconstructed.
        data: Texts to fit on: a file, or a data set by its name; or folder of activations that
            ``clvq-lens cache`` filled.
        out: Folder for the results.
        held_out: Texts to evaluate on; None: the part of ``data`` kept aside.
        options: Options of `clvq_lens.CLVQConfig` by name.
        fit_options: Options of `clvq_lens.FitConfig` by name.
        overwrite: Whether a quantizer in the folder may be replaced.
        checkpointing: Where checkpoints are written to, if anywhere.
        callbacks: What is told how the fit goes on.

    Raises:
        ConfigError: If an option is unknown or impossible.
        DataError: If texts cannot be read.
        HubError: If a data set on the Hub cannot be reached.
        PathTakenError: If the folder holds a quantizer that may not be replaced.
        CommandInterruptedError: On Ctrl-C.
    """
    config = CLVQConfig().replace(**options)
    run = Run(
        model=model.lasting_name,
        dtype=model.dtype,
        prepend_bos=model.prepend_bos,
        quantize=model.quantize,
        device=model.device,
        device_map=None if model.device_map is None else str(model.device_map),
        source=source,
        target=target,
        data=lasting(data),
        held_out=None if held_out is None else lasting(held_out),
        toy_texts=None,
        quantizer=config,
        config=FitConfig().replace(**fit_options),
    )
    model = model.of_process()
    folder = checkpointing.folder
    restarted = were_restarted()
    if restarted and folder is not None and holds_checkpoints(folder):
        checkpointing = replace(checkpointing, resume=True)
    check_resume(folder, resume=checkpointing.resume)
    is_first = Processes.current().is_first  # the one that writes
    # A process may be lost after the quantizer was saved.
    overwrite = overwrite or restarted
    with output_folder(out, overwrite=overwrite) if is_first else nullcontext():
        with interruptible("reading the data", NOTHING):
            # To the end: an error in the last line must not come after an hour of fitting.
            opened = data_at(data)
            read_through(opened)
            opened_held_out = None if held_out is None else data_at(held_out)
            if opened_held_out is not None:
                read_through(opened_held_out)
        with interruptible("loading the model", NOTHING):
            lens = add_clvq(model.load(), source, target, config=config)
            for each in (opened, opened_held_out):
                if isinstance(each, ActivationStore):  # also found out before the fit
                    each.require(lens.attachment.host, [lens.source, lens.target])
        return fit_and_write(lens, run, opened, out, Console(), checkpointing, callbacks)
