"""``clvq-lens report``: the page of a run, written again."""

from pathlib import Path

from rich.console import Console
from rich.markup import escape

from clvq_lens.commands.command_model import ModelChoice
from clvq_lens.commands.opened_run import OF_RUN, Evaluated, opened_run
from clvq_lens.commands.output import interruptible
from clvq_lens.commands.refusals import check_output_file, check_run
from clvq_lens.commands.run import read_history
from clvq_lens.page.contents import gather
from clvq_lens.page.write import check_path, write_page


def run_report(
    folder: Path,
    *,
    data: str | Path | None = None,
    out: Path | None = None,
    model: ModelChoice = OF_RUN,
    overwrite: bool = False,
) -> Evaluated:
    """Writes the page of a run again.

    Args:
        folder: Folder that `run_fit` or `run_demo` wrote.
        data: Held-out texts, as for `run_fit`; None: the texts of the run.
        out: Path of the page; None: report.html in the folder.
        model: The model, as for `opened_run`.
        overwrite: Whether a file at ``out`` may be replaced.

    Raises:
        PathTakenError: If there is a file at ``out`` that may not be replaced.
        FileFormatError: If the folder is not a run.
        DataError: If the data of the run no longer exist.
        CommandInterruptedError: On Ctrl-C.
    """
    check_run(folder)
    path = check_path(folder / "report.html" if out is None else out)
    check_output_file(out, overwrite=overwrite)
    with opened_run(folder, model, data) as opened:
        run, held_out = opened.run, opened.held_out
        with interruptible("evaluating", f"{path} was not written."):
            contents = gather(
                opened.lens.attachment,
                held_out.data,
                token_labels=held_out.token_labels,
                history=read_history(folder / "history.csv", run),
                config=run.config,
                long_texts=run.config.long_texts,
            )
            path = write_page(path, contents)
    Console().print(f"Open [bold]{escape(str(path))}[/] in a browser.")
    return Evaluated(run=run, evaluation=contents.evaluation, held_out=held_out, written=path)
