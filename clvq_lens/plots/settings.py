"""One setting varied: what it does to each metric, and how much runs of one setting differ."""

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from clvq_lens.errors import DataError
from clvq_lens.plots.inputs import whiskers
from clvq_lens.plots.text import plain
from clvq_lens.plots.theme import COLORS, LINE_PX, SMALL_FONT_PX, themed

_METRICS = {
    "fvu": "FVU:<br>0 perfect, 1 the mean",
    "fvu_random_codes": "FVU with codes<br>at random",
    "ce_loss_recovered": "CE loss recovered:<br>1 no loss, 0 the mean",
    "perplexity": "perplexity:<br>codes in use",
    "n_dead_codes": "dead codes",
}
_N_COLUMNS = 3


def plot_settings(
    runs: pd.DataFrame,
    setting: str,
    *,
    group: str | None = None,
    metrics: Mapping[str, str] | None = None,
) -> go.Figure:
    """One panel for each metric: means over runs of a setting, and whiskers from least to most.

    Settings are side by side in the order in which the table has them, evenly, whatever their
    values; those that are numbers are joined by a line.

    Args:
        runs: A row for each run, a column for each setting and metric.
        setting: The column that was varied.
        group: A column whose values are told apart by color.
        metrics: From the column of each metric to its title; None: the main ones of an
            `Evaluation`. Metrics without a number in the table are left out.

    Raises:
        DataError: If there is no run, or no such column.

    Example:
        >>> plot_settings(pd.DataFrame(runs), "n_codes")  # doctest: +SKIP
    """
    panels: dict[str, str] = {}
    for metric, title in (metrics or _METRICS).items():
        if metric in runs and bool(runs[metric].notna().any()):
            panels[metric] = title
    _check(runs, setting, group, panels)
    n_rows = -(-len(panels) // _N_COLUMNS)
    figure = make_subplots(
        rows=n_rows,
        cols=min(_N_COLUMNS, len(panels)),
        horizontal_spacing=0.09,
        vertical_spacing=0.24 / max(1, n_rows - 1),
    )
    groups = [("", runs)] if group is None else list(runs.groupby(group, sort=False))
    for number, (metric, title) in enumerate(panels.items()):
        row, column = number // _N_COLUMNS + 1, number % _N_COLUMNS + 1
        in_legend = group is not None and number == 0
        _draw_groups(figure, groups, setting, metric, row, column, in_legend=in_legend)
        figure.update_yaxes(title_text=title, rangemode="tozero", row=row, col=column)
        figure.update_xaxes(
            title_text=plain(setting),
            type="category",  # settings are evenly apart, whatever their values
            range=[-0.4, runs[setting].nunique() - 0.6],
            row=row,
            col=column,
        )
    top = 56 if group is None else 84  # below the title, or below the legend
    figure = themed(figure, title=f"What {plain(setting)} does", height=top + 270 * n_rows)
    figure.update_layout(legend_title_text=plain(group or ""), margin_t=top)
    return figure.update_yaxes(title_font_size=SMALL_FONT_PX)


def _draw_groups(
    figure: go.Figure,
    groups: Sequence[tuple[Hashable, pd.DataFrame]],
    setting: str,
    metric: str,
    row: int,
    column: int,
    *,
    in_legend: bool,
) -> None:
    """Draws one line for each group in the panel of a metric."""
    for index, (name, runs) in enumerate(groups):
        line = {"color": COLORS[index % len(COLORS)], "width": LINE_PX}
        trace = _means(runs, setting, metric)
        trace.update(name=plain(str(name)), legendgroup=str(index), line=line)
        trace.update(showlegend=in_legend)
        figure.add_trace(trace, row=row, col=column)


def _means(runs: pd.DataFrame, setting: str, metric: str) -> go.Scatter:
    """The mean of each setting, with whiskers over its runs."""
    values = runs.groupby(setting, sort=False)[metric].agg(["mean", "min", "max", "count"])
    mean, least, most, n_runs = values.to_numpy(dtype=float).T
    is_number = pd.api.types.is_numeric_dtype(runs[setting])
    return go.Scatter(
        x=[f"{value:g}" if is_number else plain(str(value)) for value in values.index],
        y=mean,
        mode="lines+markers" if is_number else "markers",
        marker={"size": 8},
        cliponaxis=False,
        error_y={"type": "data", **whiskers(mean, least, most)},
        customdata=np.stack([least, most, n_runs], axis=1),
        hovertemplate="%{x}<br>mean %{y:.4g}<br>%{customdata[0]:.4g} to %{customdata[1]:.4g} "
        "in %{customdata[2]} runs<extra></extra>",
    )


def _check(runs: pd.DataFrame, setting: str, group: str | None, panels: Mapping[str, str]) -> None:
    columns = ", ".join(map(str, runs.columns)) or "none"
    for name in (setting, group):
        if name is not None and name not in runs:
            raise DataError(f"The table of runs has no column {name!r}. It has {columns}.")
    if not panels:
        raise DataError(
            f"The table of runs has no metric to draw; its columns are {columns}. Pass "
            f"metrics={{column: title}} for columns that hold numbers."
        )
