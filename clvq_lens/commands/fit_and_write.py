"""Fits, saves, evaluates, and writes a folder with everything in it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from clvq_lens.commands.command_data import EvaluationData, held_out_of
from clvq_lens.commands.opened_run import Evaluated
from clvq_lens.commands.output import (
    NOTHING,
    interruptible,
    print_evaluation,
    print_table,
    save_fit,
)
from clvq_lens.commands.run import Run, write_table
from clvq_lens.data.documents import Data
from clvq_lens.errors import CommandInterruptedError
from clvq_lens.evaluation.evaluation import Evaluation
from clvq_lens.lens import Lens
from clvq_lens.page.contents import gather
from clvq_lens.page.write import write_page
from clvq_lens.processes import Processes
from clvq_lens.training.callback import Callback
from clvq_lens.training.history import History
from clvq_lens.writing import check_space

_PAGE = "index.html"
_RESULTS_BYTES = 32 * 2**20  # a page and tables with very many codes


@dataclass(frozen=True, kw_only=True)
class Checkpointing:
    """Checkpoints of a fit; see `clvq_lens.Lens.fit`.

    Attributes:
        folder: Folder for checkpoints; None: none are written.
        every_s: Seconds between two checkpoints.
        resume: Whether to go on with the last one.
    """

    folder: Path | None = None
    every_s: float = 300.0
    resume: bool = False


NO_CHECKPOINTS = Checkpointing()


def fit_and_write(
    lens: Lens,
    run: Run,
    data: Data,
    out: Path,
    console: Console,
    checkpointing: Checkpointing = NO_CHECKPOINTS,
    callbacks: Sequence[Callback] = (),
) -> Evaluated:
    """Fits and saves a lens, then evaluates it and writes tables and the page.

    Args:
        lens: A new lens; it is removed from its model at the end.
        run: What the command does.
        data: Data to fit on.
        out: Folder for the results.
        console: Where tables are printed.
        checkpointing: Where checkpoints are written to, if anywhere.
        callbacks: What is told how the fit goes on.

    Raises:
        PathError: If the disk is too full, or the folder cannot be written to.
        CommandInterruptedError: On Ctrl-C.
    """
    try:
        # Before the fit, which may take hours, and not after it.
        check_space(out, _size_bytes(lens) + _RESULTS_BYTES)
        with interruptible("starting to fit", f"Nothing was learned yet. {NOTHING}"):
            history = lens.fit(
                data,
                run.config,
                checkpoint=checkpointing.folder,
                checkpoint_every=checkpointing.every_s,
                resume=checkpointing.resume,
                callbacks=callbacks,
            )
        is_first = Processes.current().is_first
        report_command = f"clvq-lens report {out}"
        saved = f"The fitted quantizer is saved in {out}. To evaluate it: {report_command}"
        if is_first:
            with interruptible("saving", saved):
                save_fit(lens, run, history, out)
        if history.stop == "interrupted":
            # Whoever ends a fit early does not want to wait for its evaluation.
            again = "--overwrite" if checkpointing.folder is None else "--resume --overwrite"
            raise CommandInterruptedError(
                f"Interrupted while fitting. What was learned by then is saved in {out}. To fit to "
                f"the end, give the same command again with {again}. To look at what was learned: "
                f"{report_command}"
            )
        with interruptible("evaluating", saved):
            held_out = held_out_of(run, data)
            if is_first:
                evaluation = write_results(lens, run, history, held_out, out, console)
            else:  # the first one writes, and shares the evaluation
                evaluation = _evaluated(lens, run, held_out)
            return Evaluated(
                run=replace(run, ended=replace(history, records=[])),
                evaluation=evaluation,
                held_out=held_out,
                written=out / _PAGE,
            )
    finally:
        lens.remove()


def _size_bytes(lens: Lens) -> int:
    size_bytes = 0
    for weight in lens.quantizer.state_dict().values():
        size_bytes += weight.nbytes
    return size_bytes


def write_results(
    lens: Lens,
    run: Run,
    history: History,
    held_out: EvaluationData,
    out: Path,
    console: Console,
) -> Evaluation:
    """Evaluates a fitted lens, prints tables, and writes them and the page.

    Args:
        lens: A fitted lens.
        run: What the command did.
        history: History of the fit.
        held_out: Data to evaluate on.
        out: Folder for the results.
        console: Where tables are printed.

    Raises:
        KeyboardInterrupt: On Ctrl-C.
    """
    data, token_labels = held_out.data, held_out.token_labels
    long_texts = run.config.long_texts
    evaluation = _evaluated(lens, run, held_out)
    write_table(out / "evaluation.csv", evaluation.frame())
    concepts = lens.concepts(data, token_labels=token_labels, long_texts=long_texts)
    if not concepts.complete:
        # `concepts` returns what it has on Ctrl-C; the flow and the page would take as long again.
        raise KeyboardInterrupt
    write_table(out / "concepts.csv", concepts.frame())
    title = _title(lens.name, evaluation.n_tokens, held_out)
    print_evaluation(console, title, evaluation)
    if evaluation.recovery is not None:
        recovery = evaluation.recovery.frame()
        write_table(out / "recovery.csv", recovery)
        print_table(console, "Do codes recover the true concepts?", recovery)
    contents = gather(
        lens.attachment,
        data,
        token_labels=token_labels,
        history=history,
        config=run.config,
        long_texts=long_texts,
        concepts=concepts,
        evaluation=evaluation,
    )
    page = write_page(out / _PAGE, contents)
    console.print(
        f"The quantizer and the tables are in [bold]{escape(str(out))}[/]. Open "
        f"[bold]{escape(str(page))}[/] in a browser."
    )
    return evaluation


def _evaluated(lens: Lens, run: Run, held_out: EvaluationData) -> Evaluation:
    return lens.evaluate(
        held_out.data,
        token_labels=held_out.token_labels,
        long_texts=run.config.long_texts,
        shared=True,
    )


def _title(name: str, n_tokens: int, held_out: EvaluationData) -> str:
    """A title that says what the numbers were measured on."""
    if held_out.kept_aside:
        return f"{name}, {n_tokens:,} held-out tokens"
    return (
        f"{name}, {n_tokens:,} TRAINING tokens: nothing was held out, so these numbers are too "
        f"good. Pass more documents, or others with --held-out."
    )
