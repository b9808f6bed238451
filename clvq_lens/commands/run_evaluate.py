"""``clvq-lens evaluate``: the quantizer of a run on other data."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from clvq_lens.commands.command_model import ModelChoice
from clvq_lens.commands.opened_run import OF_RUN, Evaluated, OpenedRun, opened_run
from clvq_lens.commands.output import interruptible, print_evaluation, print_table
from clvq_lens.commands.refusals import check_output_file, check_run, evaluation_table
from clvq_lens.commands.run import write_table
from clvq_lens.config import METRICS, Metric
from clvq_lens.writing import check_file


def run_evaluate(
    folder: Path,
    *,
    data: str | Path | None,
    metrics: Sequence[Metric] = METRICS,
    out: Path | None,
    model: ModelChoice = OF_RUN,
    overwrite: bool = False,
) -> Evaluated:
    """Evaluates the quantizer of a run, prints the numbers and writes them as a table.

    Args:
        folder: Folder that ``clvq-lens fit`` or ``demo`` wrote.
        data: Texts, as for `run_fit`; None: those that the run kept aside.
        metrics: What to compute, as for `clvq_lens.Lens.evaluate`.
        out: Path of the table; None: in the folder, named after the data.
        model: The model, as for `opened_run`.
        overwrite: Whether a file of that name may be replaced.

    Raises:
        PathTakenError: If there is a file of that name that may not be replaced.
        FileFormatError: If the folder is not a run.
        DataError: If the data of the run no longer exist.
        CommandInterruptedError: On Ctrl-C.
    """
    check_run(folder)
    path = check_file(evaluation_table(folder, data, out))
    check_output_file(path, overwrite=overwrite)
    with opened_run(folder, model, data) as opened:
        with interruptible("evaluating", f"{path} was not written."):
            evaluation = opened.lens.evaluate(
                opened.held_out.data,
                metrics=metrics,
                token_labels=opened.held_out.token_labels,
                long_texts=opened.run.config.long_texts,
            )
        write_table(path, evaluation.frame())
        console = Console()
        print_evaluation(console, _title(opened, evaluation.n_tokens), evaluation)
    if evaluation.left_out is not None:
        console.print(escape(evaluation.left_out))
    if evaluation.recovery is not None:
        frame = evaluation.recovery.frame()
        print_table(console, "Do codes recover the true concepts?", frame)
    console.print(f"The table is in [bold]{escape(str(path))}[/].")
    return Evaluated(run=opened.run, evaluation=evaluation, held_out=opened.held_out, written=path)


def _title(opened: OpenedRun, n_tokens: int) -> str:
    """A title that says what the numbers were measured on."""
    name, held_out = opened.lens.name, opened.held_out
    if not held_out.kept_aside:
        return (
            f"{name}, {n_tokens:,} TRAINING tokens: the run was fitted on these data, so these "
            f"numbers are too good. Pass others with --data."
        )
    place = "" if held_out.place is None else f" of {held_out.place}"
    return f"{name}, {n_tokens:,} tokens{place}"
