"""Several quantizers side by side."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots

from clvq_lens.errors import DataError
from clvq_lens.plots.inputs import HasFrame, as_frame, intervals_shown, numbers, whiskers
from clvq_lens.plots.text import plain, shortened
from clvq_lens.plots.theme import BLUE, CONTROL_MARK, MARK_PX, NAME_WIDTH, SMALL_FONT_PX, themed
from clvq_lens.showing import told_apart

_N_COLUMNS = 3
_ROW_PX = 36  # height of one quantizer in a panel
_BETWEEN_PX = 92  # between rows of panels, for ticks and titles of the axes
_TOP_PX = 84  # above the panels


class _MetricPanel(NamedTuple):
    metric: str
    title: str
    control: str | None  # another metric, or "n_codes"
    control_is: str


_PANELS = (
    _MetricPanel("fvu", "FVU: 0 perfect,<br>1 the mean", "fvu_random_codes", "codes at random"),
    _MetricPanel(
        "ce_loss_recovered", "CE loss recovered: 1 no loss,<br>0 as bad as the mean", None, ""
    ),
    _MetricPanel("kl", "KL, nats per token", "kl_mean_ablated", "mean-ablated"),
    _MetricPanel("perplexity", "perplexity: codes in use", "n_codes", "all codes, equally"),
    _MetricPanel("n_dead_codes", "dead codes", "n_codes", "size of the codebook"),
)
_COUNTS = ("perplexity", "n_dead_codes")  # in codes, so that they are a share of the codebook


def plot_evaluations(evaluations: Mapping[str, pd.DataFrame | HasFrame]) -> go.Figure:
    """Several quantizers side by side, one panel for each metric, controls beside.

    Intervals are those of the evaluations: 95 %, over documents. Metrics that none of them has,
    such as the KL of a model without a language-model head, are left out.

    Args:
        evaluations: From the name of a quantizer to its `Evaluation`, or the table of one. A table
            does not know the size of the codebook, so that the share of codes is left out.

    Raises:
        DataError: If there is no evaluation, or no metric that is drawn.

    Example:
        >>> plot_evaluations({"100 codes": small, "400 codes": large})  # doctest: +SKIP
    """
    if not evaluations:
        raise DataError(
            "There is no evaluation to compare. Pass {name: lens.evaluate(texts), ...}, one for "
            "each quantizer."
        )
    names = list(evaluations)
    table = pd.concat(list(map(_values, evaluations.values())), keys=names)
    metrics = set(table.index.get_level_values(1))
    panels = [panel for panel in _PANELS if panel.metric in metrics]
    if not panels:
        raise DataError(
            "The evaluations have no metric to draw. Pass {name: lens.evaluate(texts), ...}."
        )
    n_rows = -(-len(panels) // _N_COLUMNS)
    panel_px = _ROW_PX * len(names) + 30
    all_px = n_rows * panel_px + (n_rows - 1) * _BETWEEN_PX
    figure = make_subplots(
        rows=n_rows,
        cols=_N_COLUMNS,
        shared_yaxes=True,
        horizontal_spacing=0.06,
        vertical_spacing=_BETWEEN_PX / all_px if n_rows > 1 else 0.0,
    )
    for number, panel in enumerate(panels):
        row, column = number // _N_COLUMNS + 1, number % _N_COLUMNS + 1
        _draw_panel(figure, panel, table, names, row, column)
    figure.update_yaxes(
        autorange=False,
        range=[len(names) - 0.5, -0.75],
        tickvals=list(range(len(names))),
        ticktext=[plain(shortened(name, NAME_WIDTH)) for name in names],
        zeroline=False,  # the first quantizer stands at 0, which means nothing
    )
    figure.update_yaxes(title_text="quantizer", col=1)
    height = _TOP_PX + n_rows * (panel_px + _BETWEEN_PX)
    figure = themed(figure, title="Quantizers compared", height=height)
    return figure.update_layout(legend_traceorder="reversed")  # what was measured comes first


def _values(evaluation: pd.DataFrame | HasFrame) -> pd.DataFrame:
    """Value, low and high of each metric, and the size of the codebook where it is known."""
    frame = as_frame(evaluation).set_index("metric")
    values = frame.loc[:, ["value", "low", "high"]].astype(float)
    n_codes = getattr(evaluation, "n_codes", None)
    if n_codes is not None:
        values.loc["n_codes"] = [float(n_codes), np.nan, np.nan]
    return values


def _of_all(table: pd.DataFrame, metric: str | None, names: Sequence[str]) -> pd.DataFrame:
    """A metric of every quantizer; NaN where one does not have it."""
    rows = table.loc[table.index.get_level_values(1) == metric].droplevel(1)
    return rows.reindex(names)


def _draw_panel(
    figure: go.Figure,
    panel: _MetricPanel,
    table: pd.DataFrame,
    names: Sequence[str],
    row: int,
    column: int,
) -> None:
    value = _of_all(table, panel.metric, names)
    control = numbers(_of_all(table, panel.control, names), "value")
    in_legend = row == column == 1  # each kind of mark once
    _draw_controls(figure, panel, names, control, row, column, in_legend=in_legend)
    _draw_values(figure, panel, value, control, row, column, in_legend=in_legend)
    known = "" if np.isnan(control).all() else f"<br>control: {panel.control_is}"
    title = panel.title + known
    figure.update_xaxes(title_text=title, rangemode="tozero", row=row, col=column)


def _draw_controls(
    figure: go.Figure,
    panel: _MetricPanel,
    names: Sequence[str],
    control: Float[np.ndarray, " n"],
    row: int,
    column: int,
    *,
    in_legend: bool,
) -> None:
    figure.add_scatter(
        x=control,
        y=list(range(len(names))),
        mode="markers",
        name="its control",
        legendgroup="control",
        showlegend=in_legend,
        marker=CONTROL_MARK,
        hovertext=list(map(plain, names)),
        hovertemplate=f"%{{hovertext}}<br>{panel.control_is} %{{x:.4g}}<extra></extra>",
        row=row,
        col=column,
    )


def _draw_values(
    figure: go.Figure,
    panel: _MetricPanel,
    rows: pd.DataFrame,
    control: Float[np.ndarray, " n"],
    row: int,
    column: int,
    *,
    in_legend: bool,
) -> None:
    value, low, high = numbers(rows, "value"), numbers(rows, "low"), numbers(rows, "high")
    middle = np.nanmax([0.0, *value, *control]) / 2
    texts: list[str] = []
    sides: list[str] = []
    for number, its_control in zip(value, control, strict=True):
        texts.append(_written(panel.metric, number, its_control))
        # Towards the middle of the panel, where there is room.
        sides.append("top right" if number <= middle else "top left")
    figure.add_scatter(
        x=value,
        y=list(range(len(rows))),
        mode="markers+text",
        name="quantizer, 95 % interval over documents",
        legendgroup="quantizer",
        showlegend=in_legend,
        marker={"color": BLUE, "size": MARK_PX},
        error_x=whiskers(value, low, high),
        text=texts,
        textposition=sides,
        textfont={"size": SMALL_FONT_PX},
        hovertext=rows.index.map(plain).tolist(),
        customdata=intervals_shown(value, low, high),
        hovertemplate="%{hovertext}<br>%{customdata}<extra></extra>",
        cliponaxis=False,
        row=row,
        col=column,
    )


def _written(metric: str, value: float, control: float) -> str:
    """A value as it stands beside its mark; counts of codes with their share of the codebook."""
    if np.isnan(value):
        return ""
    if metric not in _COUNTS:
        return told_apart(value)[0]
    share = "" if np.isnan(control) else f" ({value / control:.0%})"
    return f"{value:.4g}{share}"
