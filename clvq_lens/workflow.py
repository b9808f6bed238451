"""What the commands do: load, fit, evaluate, and write a folder with everything in it.

Whatever can be refused is looked at before anything slow, and a finished fit is saved before
anything else is done with it.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from clvq_lens import toy
from clvq_lens.add import add_clvq
from clvq_lens.config import CLVQConfig, FitConfig
from clvq_lens.errors import CommandInterruptedError, DataError, PathTakenError
from clvq_lens.evaluation.labels import TokenLabels
from clvq_lens.evaluation.report import Report
from clvq_lens.host.loading import check_device, check_dtype, choose_bos_, load_pretrained
from clvq_lens.lens import Lens
from clvq_lens.output import interruptible, output_folder, save_fit
from clvq_lens.page.contents import gather
from clvq_lens.page.write import check_path, write_page
from clvq_lens.quantizer.files import load
from clvq_lens.training.documents import Data, Split, open_documents
from clvq_lens.training.history import History
from clvq_lens.training.run import Run, read_history, read_run, write_table
from clvq_lens.writing import check_space

_PAGE_BYTES = 32 * 2**20  # the page and all tables, of many codes
_NOTHING = "Nothing was written."


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


def load_model(
    name: str,
    *,
    device: str | None = None,
    dtype: str | None = None,
    prepend_bos: bool | None = None,
) -> Any:
    """A pretrained model by its name or folder, or the toy model; as `load_pretrained`."""
    if name != "toy":
        return load_pretrained(name, device, dtype=dtype, prepend_bos=prepend_bos)
    check_device(device)
    model = toy.load(n_texts=1, device=device or "cpu").model
    if dtype is not None:
        model.to(check_dtype(dtype))
    choose_bos_(model, prepend_bos, None)
    return model


def run_demo(out: Path, *, seed: int, overwrite: bool = False) -> Report:
    """Fits on the toy world and writes the results."""
    console = Console()
    console.print("[bold]The toy world:[/] a small language model whose true concepts are known.")
    run = Run(
        model="toy",
        data=None,
        held_out=None,
        toy_texts=(DEMO.n_held_out, DEMO.held_out_seed),
        fit=FitConfig(n_tokens=DEMO.n_tokens, seed=seed),
    )
    with output_folder(out, overwrite=overwrite):
        with interruptible("loading the toy world", _NOTHING):
            model, texts = toy.load(n_texts=DEMO.n_texts)
            lens = add_clvq(model, DEMO.source, DEMO.target, n_codes=DEMO.n_codes)
        return fit_and_write(lens, run, texts, out, console)


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
    dtype: str | None = None,
    prepend_bos: bool | None = None,
    overwrite: bool = False,
) -> Report:
    """Fits on a user's data and writes the results.

    Raises:
        PathTakenError: If the folder holds a quantizer, unless it may be overwritten.
        CommandInterruptedError: On Ctrl-C.
    """
    CLVQConfig().replace(**options)
    run = Run(
        model=str(Path(model).absolute()) if Path(model).is_dir() else model,
        dtype=dtype,
        prepend_bos=prepend_bos,
        data=str(data.absolute()),
        held_out=None if held_out is None else str(held_out.absolute()),
        toy_texts=None,
        fit=FitConfig().replace(**fit_options),
    )
    check_device(device)
    if dtype is not None:
        check_dtype(dtype)
    with output_folder(out, overwrite=overwrite):
        with interruptible("reading the data", _NOTHING):
            read_through(data)
            if held_out is not None:
                read_through(held_out)
        with interruptible("loading the model", _NOTHING):
            host = load_model(model, device=device, dtype=dtype, prepend_bos=prepend_bos)
            lens = add_clvq(host, source, target, **options)
        return fit_and_write(lens, run, data, out, Console())


def run_report(
    folder: Path,
    *,
    data: Path | None = None,
    out: Path | None = None,
    model: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Writes the page of a run again.

    Args:
        folder: Written by `run_fit` or `run_demo`.
        data: Held-out texts; None: those of the run.
        out: Of the page; None: report.html in the folder.
        model: Name to load it by; None: that of the run.
        device: Of the model; None: its own choice.
        dtype: Of the model; None: that of the run.
        overwrite: Whether a file named by ``out`` may be replaced.

    Raises:
        PathTakenError: If there is a file named by ``out`` that may not be replaced.
        FileFormatError: If the folder is no run.
        DataError: If the run's data are no longer where they were.
        CommandInterruptedError: On Ctrl-C.
    """
    check_device(device)
    run, quantizer = read_run(folder), load(folder)
    path = check_path(folder / "report.html" if out is None else out)
    if out is not None and path.exists() and not overwrite:
        raise PathTakenError(f"{path} exists. Pass --overwrite to replace it, or another path.")
    with interruptible("reading the data", _NOTHING):
        held_out = held_out_of(run) if data is None else HeldOut(data=data)
        open_documents(held_out.data)
    with interruptible("loading the model", _NOTHING):
        options = {"dtype": dtype or run.dtype, "prepend_bos": run.prepend_bos}
        lens = add_clvq(
            load_model(model or run.model, device=device, **options), quantizer=quantizer
        )
    try:
        with interruptible("evaluating", f"{path} was not written."):
            contents = gather(
                lens.model,
                lens.name,
                held_out.data,
                labels=held_out.labels,
                history=read_history(folder / "history.csv", run),
                fit=run.fit,
                long_texts=run.fit.long_texts,
            )
            path = write_page(path, contents)
    finally:
        lens.remove()
    Console().print(f"Open [bold]{escape(str(path))}[/] in a browser.")
    return path


def read_through(path: Path) -> None:
    """Raises `DataError` for whatever is wrong anywhere in a file of texts."""
    for _ in open_documents(path):
        pass


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
    if not os.path.isfile(path):
        raise DataError(
            f"The data of this run were in {path}, where there is no file now. Pass them: --data."
        )
    if run.held_out is not None:
        return HeldOut(data=path)
    kept = list(Split(open_documents(path), run.fit.held_out_fraction).held_out())
    return HeldOut(data=kept) if kept else HeldOut(data=path, kept_aside=False)


def fit_and_write(lens: Lens, run: Run, data: Data, out: Path, console: Console) -> Report:
    """Fits, saves, evaluates; prints the report; writes quantizer, tables and the page."""
    try:
        weights = lens.quantizer.state_dict().values()
        check_space(out, sum(weight.nbytes for weight in weights) + _PAGE_BYTES)
        with interruptible("starting to fit", f"Nothing was learned yet. {_NOTHING}"):
            history = lens.fit(data, run.fit)
        report_on = f"clvq-lens report {out}"
        go_on = f"The fitted quantizer is saved in {out}. To evaluate it: {report_on}"
        with interruptible("saving", go_on):
            save_fit(lens, run, history, out)
        if history.stop == "interrupted":
            raise CommandInterruptedError(
                f"Interrupted while fitting. What was learned by then is saved in {out}. To fit to "
                f"the end, give the same command again with --overwrite; to look at what is there: "
                f"{report_on}"
            )
        with interruptible("evaluating", go_on):
            return write_results(lens, run, history, held_out_of(run), out, console)
    finally:
        lens.remove()


def write_results(
    lens: Lens,
    run: Run,
    history: History,
    held_out: HeldOut,
    out: Path,
    console: Console,
) -> Report:
    """Evaluates; prints the report; writes tables and the page."""
    long_texts = run.fit.long_texts
    report = lens.evaluate(held_out.data, labels=held_out.labels, long_texts=long_texts)
    write_table(out / "report.csv", report.frame())
    concepts = lens.concepts(held_out.data, labels=held_out.labels, long_texts=long_texts)
    if not concepts.complete:
        raise KeyboardInterrupt  # the rest would take as long again
    write_table(out / "concepts.csv", concepts.frame())
    title = _title(lens.name, report.n_tokens, held_out)
    print_table(console, title, _with_intervals(report.frame()))
    if report.recovery is not None:
        recovery = report.recovery.frame()
        write_table(out / "recovery.csv", recovery)
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
    console.print(
        f"Quantizer and tables are in [bold]{escape(str(out))}[/]; open "
        f"[bold]{escape(str(page))}[/] in a browser."
    )
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
    table = Table(title=escape(title), title_justify="left")
    for column in frame.columns:
        numeric = pd.api.types.is_numeric_dtype(frame[column])
        table.add_column(
            column, justify="right" if numeric else "left", no_wrap=column != "meaning"
        )
    for row in frame.itertuples(index=False):
        table.add_row(*(escape(_short(value)) for value in row))
    console.print(table)


def _short(value: Any) -> str:
    if isinstance(value, float):
        return "" if pd.isna(value) else f"{value:.4g}"
    return "" if value is None else str(value)
