"""Several quantizers side by side."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from clvq_lens.errors import DataError
from clvq_lens.plots.inputs import HasFrame, as_frame
from clvq_lens.plots.text import plain, shortened
from clvq_lens.plots.theme import COLOURS, themed

_NAME_WIDTH = 24
_N_COLUMNS = 3


class _Panel(NamedTuple):
    metric: str
    title: str
    control: str | None  # another metric, or "n_codes"
    control_is: str


_PANELS = (
    _Panel("fvu", "FVU: 0 perfect,<br>1 the mean", "fvu_random_codes", "codes at random"),
    _Panel("ce_loss_recovered", "CE loss recovered: 1 no loss,<br>0 as bad as the mean", None, ""),
    _Panel("kl", "KL, nats per token", "kl_mean_ablated", "mean-ablated"),
    _Panel("perplexity", "perplexity: codes in use", "n_codes", "all codes, equally"),
    _Panel("n_dead_codes", "dead codes", "n_codes", "size of the codebook"),
)


class _Value(NamedTuple):
    """A metric of one quantizer with its interval; NaN where the report has none."""

    value: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")


def plot_comparison(reports: Mapping[str, pd.DataFrame | HasFrame]) -> go.Figure:
    """Several quantizers side by side, one panel for each metric, controls beside.

    Intervals are those of the reports: 95 %, over documents. Metrics that no report has, such as
    the KL of a model without a language-model head, are left out.

    Args:
        reports: From the name of a quantizer to its `Report`, or the table of one. A table does not
            know the size of the codebook, so that the share of codes is left out.

    Raises:
        DataError: If there is no report.

    Example:
        >>> plot_comparison({"100 codes": small, "400 codes": large})  # doctest: +SKIP
    """
    if not reports:
        raise DataError(
            "There is no report to compare. Pass {name: lens.evaluate(texts), ...}, one for each "
            "quantizer."
        )
    tables = {name: _values(report) for name, report in reports.items()}
    panels = [panel for panel in _PANELS if any(panel.metric in table for table in tables.values())]
    n_rows = -(-len(panels) // _N_COLUMNS)
    height = 36 * len(reports) + 30
    between = 92  # for ticks and titles of the axes
    figure = make_subplots(
        rows=n_rows,
        cols=_N_COLUMNS,
        shared_yaxes=True,
        horizontal_spacing=0.06,
        vertical_spacing=between / (n_rows * height + (n_rows - 1) * between) * (n_rows > 1),
    )
    for number, panel in enumerate(panels):
        row, column = number // _N_COLUMNS + 1, number % _N_COLUMNS + 1
        _draw(figure, panel, tables, row, column, first=number == 0)
    figure.update_yaxes(
        autorange=False, range=[len(reports) - 0.5, -0.75], tickvals=list(range(len(reports))),
        ticktext=[plain(shortened(name, _NAME_WIDTH)) for name in reports],
    )  # fmt: skip
    figure.update_yaxes(title_text="quantizer", col=1)
    return themed(figure, title="Quantizers compared", height=84 + n_rows * (height + between))


def _values(report: pd.DataFrame | HasFrame) -> dict[str, _Value]:
    """A report by metric, with the size of its codebook where that is known."""
    frame = as_frame(report)
    numbers = frame[["value", "low", "high"]].astype(float).itertuples(index=False)
    values = {
        str(metric): _Value(*row) for metric, row in zip(frame["metric"], numbers, strict=True)
    }
    n_codes = getattr(report, "n_codes", None)
    return values if n_codes is None else {**values, "n_codes": _Value(float(n_codes))}


def _draw(
    figure: go.Figure,
    panel: _Panel,
    tables: Mapping[str, Mapping[str, _Value]],
    row: int,
    column: int,
    *,
    first: bool,
) -> None:
    names = [plain(name) for name in tables]
    measured = [table.get(panel.metric, _Value()) for table in tables.values()]
    value, low, high = (np.array(numbers) for numbers in zip(*measured, strict=True))
    control = np.array(
        [table.get(panel.control or "", _Value()).value for table in tables.values()]
    )
    middle = max([0.0, *value[~np.isnan(value)], *control[~np.isnan(control)]]) / 2
    places = list(range(len(names)))
    figure.add_scatter(
        x=control,
        y=places,
        mode="markers",
        name="its control",
        legendgroup="control",
        showlegend=first,
        marker={"color": COLOURS[1], "symbol": "line-ns-open", "size": 12, "line": {"width": 3}},
        hovertext=names,
        hovertemplate=f"%{{hovertext}}<br>{panel.control_is} %{{x:.4g}}<extra></extra>",
        row=row,
        col=column,
    )
    figure.add_scatter(
        x=value,
        y=places,
        mode="markers+text",
        name="quantizer, 95 % interval over documents",
        legendgroup="quantizer",
        showlegend=first,
        marker={"color": COLOURS[0], "size": 9},
        error_x={"array": high - value, "arrayminus": value - low, "symmetric": False},
        text=[_number(panel.metric, *pair) for pair in zip(value, control, strict=True)],
        textposition=[f"top {'right' if number <= middle else 'left'}" for number in value],
        textfont={"size": 12},
        hovertext=names,
        hovertemplate="%{hovertext}<br>%{x:.4g}<extra></extra>",
        cliponaxis=False,
        row=row,
        col=column,
    )
    marks = "" if np.isnan(control).all() else f"<br>control: {panel.control_is}"
    figure.update_xaxes(title_text=panel.title + marks, rangemode="tozero", row=row, col=column)


def _number(metric: str, value: float, control: float) -> str:
    if np.isnan(value):
        return ""
    if metric not in ("perplexity", "n_dead_codes"):
        return f"{value:.3f}"
    return f"{value:.4g}" + ("" if np.isnan(control) else f" ({value / control:.0%})")
