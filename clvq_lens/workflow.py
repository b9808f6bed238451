"""What the commands do: load, fit, evaluate, and write a folder with everything in it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from clvq_lens import toy
from clvq_lens.add import add_clvq
from clvq_lens.config import FitConfig
from clvq_lens.errors import DataError
from clvq_lens.evaluation.labels import TokenLabels
from clvq_lens.evaluation.report import Report
from clvq_lens.host.loading import load_pretrained
from clvq_lens.lens import Lens
from clvq_lens.page.contents import gather
from clvq_lens.page.write import check_path, write_page
from clvq_lens.quantizer.files import load
from clvq_lens.training.documents import Data, Split, open_documents
from clvq_lens.training.history import History
from clvq_lens.training.run import Run, read_history, read_run, write_history, write_run


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Size of the demo: a minute on two cores."""

    source: int = 1
    target: int = 3
    n_texts: int = 3_000
    n_held_out: int = 400
    held_out_seed: int = 1
    n_codes: int = 256
    n_tokens: int = 300_000


DEMO = Demo()


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Data that a quantizer is evaluated on.

    Attributes:
        data: Not those that it was fitted on, if there are others.
        labels: Of every real token, if known.
        kept_aside: Whether it was not fitted on them. A single document, or a fit with
            ``held_out_fraction=0``, leaves nothing else to evaluate on.
    """

    data: Data
    labels: TokenLabels | None = None
    kept_aside: bool = True


def load_model(name: str, device: str | None) -> Any:
    """A pretrained model by its name or folder, or the toy model."""
    return toy.load(n_texts=1).model if name == "toy" else load_pretrained(name, device)


def run_demo(out: Path, *, seed: int) -> Report:
    """Fits on the toy world and writes the results."""
    console = Console()
    console.print("[bold]The toy world:[/] a small language model whose true concepts are known.")
    model, texts = toy.load(n_texts=DEMO.n_texts)
    run = Run(
        model="toy",
        data=None,
        held_out=None,
        toy_texts=(DEMO.n_held_out, DEMO.held_out_seed),
        fit=FitConfig(n_tokens=DEMO.n_tokens, seed=seed),
    )
    lens = add_clvq(model, DEMO.source, DEMO.target, n_codes=DEMO.n_codes)
    try:
        history = lens.fit(texts, run.fit)
        return write_results(lens, run, history, held_out_of(run), out, console)
    finally:
        lens.remove()


def run_fit(
    model: str,
    source: int | str,
    target: int | str,
    data: Path,
    out: Path,
    *,
    held_out: Path | None,
    options: dict[str, Any],
    fit_options: dict[str, Any],
    device: str | None = None,
) -> Report:
    """Fits on a user's data and writes the results."""
    run = Run(
        model=str(Path(model).absolute()) if Path(model).is_dir() else model,
        data=str(data.absolute()),
        held_out=None if held_out is None else str(held_out.absolute()),
        toy_texts=None,
        fit=FitConfig().replace(**fit_options),
    )
    lens = add_clvq(load_model(model, device), source, target, **options)
    history = lens.fit(data, run.fit)
    lens.save(out)  # first of all: what follows can be done again
    return write_results(lens, run, history, held_out_of(run), out, Console())


def run_report(
    folder: Path,
    *,
    data: Path | None = None,
    out: Path | None = None,
    model: str | None = None,
    device: str | None = None,
) -> Path:
    """Writes the page of a run again.

    Args:
        folder: Written by `run_fit` or `run_demo`.
        data: Held-out texts; None: those of the run.
        out: Of the page; None: report.html in the folder.
        model: Name to load it by; None: that of the run.
        device: Of the model; None: its own choice.

    Raises:
        FileFormatError: If the folder is no run.
        DataError: If the run's data are no longer where they were.
    """
    run, quantizer = read_run(folder), load(folder)
    path = check_path(folder / "report.html" if out is None else out)
    held_out = held_out_of(run) if data is None else HeldOut(data=data)
    lens = add_clvq(load_model(model or run.model, device), quantizer=quantizer)
    try:
        contents = gather(
            lens.model,
            lens.name,
            held_out.data,
            labels=held_out.labels,
            history=read_history(folder / "history.csv", run),
            fit=run.fit,
            long_texts=run.fit.long_texts,
        )
    finally:
        lens.remove()
    path = write_page(path, contents)
    Console().print(f"Open [bold]{path}[/] in a browser.")
    return path


def held_out_of(run: Run) -> HeldOut:
    """The data that a run is evaluated on.

    Raises:
        DataError: If they are no longer where they were.
    """
    if run.toy_texts is not None:
        n_texts, seed = run.toy_texts
        texts = toy.generate(n_texts, seed=seed)
        return HeldOut(data=texts, labels=toy.labels(texts))
    path = Path(run.held_out or run.data or "")
    if not path.is_file():
        raise DataError(
            f"The data of this run were in {path}, where there is no file now. Pass them: --data."
        )
    if run.held_out is not None:
        return HeldOut(data=path)
    kept = list(Split(open_documents(path), run.fit.held_out_fraction).held_out())
    return HeldOut(data=kept) if kept else HeldOut(data=path, kept_aside=False)


def write_results(
    lens: Lens,
    run: Run,
    history: History,
    held_out: HeldOut,
    out: Path,
    console: Console,
) -> Report:
    """Evaluates; prints the report; writes quantizer, tables and the page."""
    long_texts = run.fit.long_texts
    lens.save(out)
    write_run(out, run, history)
    write_history(out / "history.csv", history)
    report = lens.evaluate(held_out.data, labels=held_out.labels, long_texts=long_texts)
    report.frame().to_csv(out / "report.csv", index=False)
    concepts = lens.concepts(held_out.data, labels=held_out.labels, long_texts=long_texts)
    if not concepts.complete:
        raise KeyboardInterrupt  # the rest would take as long again
    concepts.frame().to_csv(out / "concepts.csv", index=False)
    print_table(
        console, _title(lens.name, report.n_tokens, held_out), _with_intervals(report.frame())
    )
    if report.recovery is not None:
        recovery = report.recovery.frame()
        recovery.to_csv(out / "recovery.csv", index=False)
        print_table(console, "Do codes recover the true concepts?", recovery)
    contents = gather(
        lens.model,
        lens.name,
        held_out.data,
        labels=held_out.labels,
        history=history,
        fit=run.fit,
        long_texts=long_texts,
        concepts=concepts,
        report=report,
    )
    page = write_page(out / "index.html", contents)
    console.print(f"Quantizer and tables are in [bold]{out}[/]; open [bold]{page}[/] in a browser.")
    return report


def _title(name: str, n_tokens: int, held_out: HeldOut) -> str:
    """Says what the numbers of a report are measured on."""
    if held_out.kept_aside:
        return f"{name}, {n_tokens:,} held-out tokens"
    return (
        f"{name}, {n_tokens:,} TRAINING tokens: nothing was held out, so these numbers "
        f"flatter. Pass more documents, or others with --held-out."
    )


def _with_intervals(frame: pd.DataFrame) -> pd.DataFrame:
    """The report's table with both ends of an interval in one column."""
    ends = zip(frame["low"], frame["high"], strict=True)
    intervals = ["" if pd.isna(low) else f"{low:.3g} to {high:.3g}" for low, high in ends]
    return pd.DataFrame(
        {
            "metric": frame["metric"],
            "value": frame["value"],
            "95 % interval": intervals,
            "meaning": frame["meaning"],
        }
    )


def print_table(console: Console, title: str, frame: pd.DataFrame) -> None:
    """Prints a table with short numbers."""
    table = Table(title=title, title_justify="left")
    for column in frame.columns:
        numeric = pd.api.types.is_numeric_dtype(frame[column])
        table.add_column(
            column, justify="right" if numeric else "left", no_wrap=column != "meaning"
        )
    for row in frame.itertuples(index=False):
        table.add_row(*(_short(value) for value in row))
    console.print(table)


def _short(value: Any) -> str:
    if isinstance(value, float):
        return "" if pd.isna(value) else f"{value:.4g}"
    return "" if value is None else str(value)
