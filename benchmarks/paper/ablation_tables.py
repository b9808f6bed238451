"""Tables and figures of the ablations, from the fits that have been done."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from benchmarks import markdown
from benchmarks.markdown import spread
from benchmarks.paper.pictures import write_png
from clvq_lens.config import CLVQConfig
from clvq_lens.plots.settings import plot_settings

METRICS = {
    "fvu": "FVU",
    "fvu_random_codes": "FVU, codes<br>at random",
    "fvu_shuffled_memory": "FVU, memory<br>shuffled",
    "ce_loss_recovered": "CE loss<br>recovered",
    "perplexity": "perplexity",
    "n_dead_codes": "dead codes",
    "fit_s": "fit, CPU seconds",
}
DEFAULT = CLVQConfig(top_k=CLVQConfig().resolved_top_k)
"""The defaults, with a number for what they leave open."""
_NOT_OF_PAPER = "encoder_layers"  # its encoder has none
_DECIMALS = {"perplexity": 1, "n_dead_codes": 1, "fit_s": 1}
_PACKAGES = ("torch", "transformer-lens", "transformers", "scikit-learn")


def table(runs: pd.DataFrame, options: Sequence[str]) -> str:
    """A Markdown table: of each setting the mean over seeds, in brackets the least and the most."""
    metrics = _measured(runs)
    titles = [*options]
    for title in metrics.values():
        titles.append(title.replace("<br>", " "))
    titles.append("seeds")
    lines = []
    for _, rows in runs.groupby("order", sort=True):
        cells = _named(rows.iloc[0], options)
        for metric in metrics:
            cells.append(spread(rows[metric], _DECIMALS.get(metric, 3)))
        lines.append([*cells, str(len(rows))])
    alignment = "l" * len(options) + "r" * (len(metrics) + 1)
    return markdown.table(titles, alignment, lines)


def verdict(runs: pd.DataFrame, options: Sequence[str]) -> str:
    """Which setting is best by two metrics, and whether that of the paper is."""
    sentences = []
    for metric, title, sign in (("fvu", "FVU", 1), ("ce_loss_recovered", "CE loss recovered", -1)):
        # The sign turns a metric of which more is better round, so that the best comes first.
        means = (sign * runs.groupby("order")[metric].mean()).sort_values()
        best = runs[runs["order"] == means.index[0]]
        sentence = f"Best {title}: {_said(best, options, metric)}"
        of_paper = runs[_is_paper(runs, options)]
        # Not every ablation has the paper's value of its option.
        if len(of_paper) and of_paper["order"].iloc[0] != means.index[0]:
            rank = list(means.index).index(of_paper["order"].iloc[0]) + 1
            ours, theirs = best[metric], of_paper[metric]
            apart = ours.max() < theirs.min() or ours.min() > theirs.max()
            sentence += (
                f"; the paper's {_said(of_paper, options, metric)} is number {rank} of "
                f"{len(means)}, and the ranges {'do not overlap' if apart else 'overlap'}"
            )
        sentences.append(sentence + ".")
    return " ".join(sentences)


def picture(runs: pd.DataFrame, option: str, group: str | None, path: Path) -> None:
    """The figure of an ablation, as an image."""
    metrics = _measured(runs)
    del metrics["fit_s"]  # the table has it
    write_png(plot_settings(runs, option, group=group, metrics=metrics), path)


def versions() -> str:
    """Versions of the packages that the numbers depend on."""
    return markdown.versions(_PACKAGES)


def _named(row: pd.Series, options: Sequence[str]) -> list[str]:
    """The values of options; the default is bold, and the paper's has a dagger."""
    is_default = all(row[option] == getattr(DEFAULT, option) for option in options)
    is_paper = _is_paper(row.to_frame().T, options).item()
    names = []
    for option in options:
        name = _written(row[option])
        name = f"**{name}**" if is_default else name
        names.append(f"{name} †" if is_paper else name)
    return names


def _said(rows: pd.DataFrame, options: Sequence[str], metric: str) -> str:
    names = ", ".join(_written(rows[option].iloc[0]) for option in options)
    return f"{names} ({spread(rows[metric], 3)})"


def _written(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _is_paper(runs: pd.DataFrame, options: Sequence[str]) -> pd.Series:
    """Which runs have the options of the paper."""
    is_paper = pd.Series(_NOT_OF_PAPER not in options, index=runs.index)
    for option in options:
        is_paper &= runs[option] == getattr(CLVQConfig.paper(), option)
    return is_paper


def _measured(runs: pd.DataFrame) -> dict[str, str]:
    """The metrics that some run has: only a decoder with a memory has one to shuffle."""
    measured: dict[str, str] = {}
    for name, title in METRICS.items():
        if runs[name].notna().any():
            measured[name] = title
    return measured
