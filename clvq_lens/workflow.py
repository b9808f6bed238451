"""What the commands do: load, fit, evaluate, and write a folder with everything in it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from clvq_lens import toy
from clvq_lens.concepts.table import ConceptTable
from clvq_lens.config import FitConfig
from clvq_lens.evaluation.report import Report
from clvq_lens.host.loading import load_pretrained
from clvq_lens.lens import Lens, add_clvq
from clvq_lens.plots.concepts import plot_concepts, plot_usage
from clvq_lens.plots.evaluation import plot_cross_entropy, plot_recovery
from clvq_lens.plots.page import write_page
from clvq_lens.training.documents import Data, Split, open_documents
from clvq_lens.training.history import History


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


def load_model(name: str, device: str | None) -> Any:
    """A pretrained model by its TransformerLens name, or the toy model."""
    return toy.load(n_texts=1).model if name == "toy" else load_pretrained(name, device)


def run_demo(out: Path, *, seed: int) -> Report:
    """Fits on the toy world and writes the results."""
    console = Console()
    console.print("[bold]The toy world:[/] a small language model whose true concepts are known.")
    model, texts = toy.load(n_texts=DEMO.n_texts)
    held_out = toy.generate(DEMO.n_held_out, seed=DEMO.held_out_seed)
    lens = add_clvq(model, DEMO.source, DEMO.target, n_codes=DEMO.n_codes)
    try:
        history = lens.fit(texts, n_tokens=DEMO.n_tokens, seed=seed)
        report = lens.evaluate(held_out, labels=toy.labels(held_out))
        write_results(lens, history, report, lens.concepts(held_out), out, console)
    finally:
        lens.remove()
    return report


def run_fit(
    model: Any,
    source: int | str,
    target: int | str,
    data: Data,
    out: Path,
    *,
    held_out: Data | None,
    options: dict[str, Any],
    fit_options: dict[str, Any],
) -> Report:
    """Fits on a user's data and writes the results."""
    config = FitConfig().replace(**fit_options)
    lens = add_clvq(model, source, target, **options)
    history = lens.fit(data, config)
    lens.save(out)  # first of all: what follows can be done again
    if held_out is None:
        split = Split(open_documents(data), config.held_out_fraction)
        held_out = list(split.held_out()) or data
    report = lens.evaluate(held_out, long_texts=config.long_texts)
    concepts = lens.concepts(held_out, long_texts=config.long_texts)
    write_results(lens, history, report, concepts, out, Console())
    return report


def write_results(
    lens: Lens,
    history: History,
    report: Report,
    concepts: ConceptTable,
    out: Path,
    console: Console,
) -> None:
    """Prints the report; writes quantizer, tables and an interactive page."""
    lens.save(out)
    history.frame().to_csv(out / "history.csv", index=False)
    report.frame().to_csv(out / "report.csv", index=False)
    concepts.frame().to_csv(out / "concepts.csv", index=False)
    figures = [
        history.plot(),
        plot_cross_entropy(report.frame()),
        plot_usage(concepts.frame()["usage"].to_numpy()),
        plot_concepts(concepts.frame()),
    ]
    title = f"{lens.name}, {report.n_tokens:,} held-out tokens"
    print_table(console, title, _with_intervals(report.frame()))
    if report.recovery is not None:
        recovery = report.recovery.frame()
        recovery.to_csv(out / "recovery.csv", index=False)
        figures.insert(1, plot_recovery(recovery))
        print_table(console, "Do codes recover the true concepts?", recovery)
    title = f"{lens.host.cfg.model_name}: concepts from {lens.source} to {lens.target}"
    page = write_page(out / "index.html", title, figures)
    console.print(f"Quantizer and tables are in [bold]{out}[/]; open [bold]{page}[/] in a browser.")


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
