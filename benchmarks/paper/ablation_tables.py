"""Tables and figures of the ablations, from the fits that have been done."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import pandas as pd

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
_DECIMALS = {"perplexity": 1, "n_dead_codes": 1, "fit_s": 1}


def table(runs: pd.DataFrame, options: Sequence[str]) -> str:
    """A Markdown table: of each setting the mean over seeds, in brackets the least and the most."""
    metrics = _measured(runs)
    names = [title.replace("<br>", " ") for title in metrics.values()]
    head = [*options, *names, "seeds"]
    lines = [
        "| " + " | ".join(head) + " |",
        "|---" * len(options) + "|--:" * (len(names) + 1) + "|",
    ]
    for _, rows in runs.groupby("order", sort=True):
        cells = [_spread(rows[metric], _DECIMALS.get(metric, 3)) for metric in metrics]
        named = _named(rows.iloc[0], options)
        lines.append("| " + " | ".join([*named, *cells, str(len(rows))]) + " |")
    return "\n".join(lines)


def verdict(runs: pd.DataFrame, options: Sequence[str]) -> str:
    """Which setting is best by two metrics, and whether that of the paper is."""
    sentences = []
    for metric, title, sign in (("fvu", "FVU", 1), ("ce_loss_recovered", "CE loss recovered", -1)):
        means = (sign * runs.groupby("order")[metric].mean()).sort_values()
        best = runs[runs["order"] == means.index[0]]
        sentence = f"Best {title}: {_said(best, options, metric)}"
        of_paper = runs[_is(CLVQConfig.paper(), runs, options)]
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
    """Of what the numbers depend on."""
    packages = ("torch", "transformer-lens", "transformers", "scikit-learn")
    return ", ".join(f"{package} {version(package)}" for package in packages)


def _spread(values: pd.Series, decimals: int) -> str:
    if values.isna().all():
        return ""
    mean, low, high = (f"{x:,.{decimals}f}" for x in (values.mean(), values.min(), values.max()))
    return mean if low == high else f"{mean} [{low}, {high}]"


def _named(row: pd.Series, options: Sequence[str]) -> list[str]:
    """The values of options; the default is bold, and the paper's has a dagger."""
    names = [f"{row[o]:g}" if isinstance(row[o], float) else str(row[o]) for o in options]
    is_default, is_paper = (
        all(row[o] == getattr(config, o) for o in options)
        for config in (CLVQConfig(), CLVQConfig.paper())
    )
    if is_default:
        names = [f"**{name}**" for name in names]
    return [name + " †" * is_paper for name in names]


def _said(rows: pd.DataFrame, options: Sequence[str], metric: str) -> str:
    names = ", ".join(
        f"{rows[o].iloc[0]:g}" if rows[o].dtype == float else str(rows[o].iloc[0]) for o in options
    )
    return f"{names} ({_spread(rows[metric], 3)})"


def _is(config: CLVQConfig, runs: pd.DataFrame, options: Sequence[str]) -> pd.Series:
    return (runs[list(options)] == [getattr(config, o) for o in options]).all(axis=1)


def _measured(runs: pd.DataFrame) -> dict[str, str]:
    """Only a decoder with a memory has one to shuffle."""
    return {name: title for name, title in METRICS.items() if runs[name].notna().any()}
