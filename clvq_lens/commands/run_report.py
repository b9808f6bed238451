"""``clvq-lens report``: the page of a run, written again."""

from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from clvq_lens.add import add_clvq
from clvq_lens.commands.command_data import EvaluationData, data_at, held_out_of
from clvq_lens.commands.command_model import ModelChoice
from clvq_lens.commands.output import (
    NOTHING,
    interruptible,
)
from clvq_lens.commands.refusals import check_page
from clvq_lens.commands.run import read_history, read_run
from clvq_lens.data.documents import open_documents
from clvq_lens.host.placement import DeviceMap
from clvq_lens.page.contents import gather
from clvq_lens.page.write import check_path, write_page
from clvq_lens.quantizer.files import load


def run_report(
    folder: Path,
    *,
    data: str | Path | None = None,
    out: Path | None = None,
    model: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    device_map: DeviceMap | None = None,
    overwrite: bool = False,
) -> Path:
    """Writes the page of a run again.

    Args:
        folder: Folder that `run_fit` or `run_demo` wrote.
        data: Held-out texts, as for `run_fit`; None: the texts of the run.
        out: Path of the page; None: report.html in the folder.
        model: Name to load the model by; None: that of the run.
        device: Device of the model, as for `ModelChoice`.
        dtype: Type of its weights; None: that of the run.
        device_map: Devices of its parts, as for `ModelChoice`.
        overwrite: Whether a file at ``out`` may be replaced.

    Raises:
        PathTakenError: If there is a file at ``out`` that may not be replaced.
        FileFormatError: If the folder is not a run.
        DataError: If the data of the run no longer exist.
        CommandInterruptedError: On Ctrl-C.
    """
    choice = ModelChoice(name=model or "", device=device, dtype=dtype, device_map=device_map)
    run, quantizer = read_run(folder), load(folder)
    # As in the fit: BOS and the bits of weights decide what the codes of a text are.
    choice = replace(
        choice,
        name=model or run.model,
        dtype=dtype or run.dtype,
        prepend_bos=run.prepend_bos,
        quantize=run.quantize,
    )
    path = check_path(folder / "report.html" if out is None else out)
    check_page(out, overwrite=overwrite)
    with interruptible("reading the data", NOTHING):
        held_out = held_out_of(run) if data is None else EvaluationData(data=data_at(data))
        open_documents(held_out.data)
    with interruptible("loading the model", NOTHING):
        lens = add_clvq(choice.load(), quantizer=quantizer)
    try:
        with interruptible("evaluating", f"{path} was not written."):
            contents = gather(
                lens.attachment,
                held_out.data,
                token_labels=held_out.token_labels,
                history=read_history(folder / "history.csv", run),
                config=run.config,
                long_texts=run.config.long_texts,
            )
            path = write_page(path, contents)
    finally:
        lens.remove()
    Console().print(f"Open [bold]{escape(str(path))}[/] in a browser.")
    return path
