"""Methods side by side, metric by metric."""

from typing import NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from clvq_lens.errors import DataError
from clvq_lens.plots.inputs import HasFrame, as_frame
from clvq_lens.plots.text import plain, shortened
from clvq_lens.plots.theme import COLOURS, themed

_N_COLUMNS = 3
_NAME_WIDTH = 24
_DROP_SEEN = 0.05  # drops of probability far below it look like none


class Described(NamedTuple):
    """What a metric is called, and what its values mean."""

    title: str
    meaning: str


METRICS = {
    "fvu": Described("FVU", "0 perfect, 1 the mean"),
    "ce_loss_recovered": Described("CE loss recovered", "1 no loss, 0 the mean"),
    "perplexity": Described("perplexity", "codes in use"),
    "n_dead_codes": Described("dead codes", "codes that no token chose"),
    "nmi": Described("NMI with labels", "0 independent, 1 the same"),
    "purity": Described("purity", "tokens with their code's label"),
    "published_accuracy": Described("published: probe accuracy", "nothing removed"),
    "published_removed": Described("published: raw code out", "accuracy; labels may flip"),
    "retrained": Described("raw code out, probe retrained", "accuracy: what information is left"),
    "probe_drop": Described("drop in the probe", "probability; centred code out"),
    "probe_drop_specific": Described("specific drop, probe", "over the strongest control"),
    "model_drop": Described("drop in the model", "probability; centred code out"),
    "model_drop_specific": Described("specific drop, model", "over the strongest control"),
    "code_drop": Described("drop, code ablated", "probability, in the model"),
    "code_drop_specific": Described("specific drop, code ablated", "over another code of the text"),
    "stability": Described("stability (AMI)", "0 chance, 1 the same codes"),
}


def plot_methods(comparison: pd.DataFrame | HasFrame) -> go.Figure:
    """One panel for each metric and one line for each method, with intervals.

    Args:
        comparison: A `Comparison`, or its table: ``method``, and for each metric its value and the
            columns ``<metric>_low`` and ``<metric>_high``.

    Raises:
        DataError: If the table holds no metric.
    """
    frame = as_frame(comparison)
    metrics = [
        metric for metric in METRICS if metric in frame and bool(frame[metric].notna().any())
    ]
    if not metrics:
        raise DataError("The table holds no metric to draw. Pass the result of compare(...).")
    n_rows = -(-len(metrics) // _N_COLUMNS)
    panel, between = 26 * len(frame) + 24, 88  # heights in pixels
    total = n_rows * panel + (n_rows - 1) * between
    figure = make_subplots(
        rows=n_rows,
        cols=_N_COLUMNS,
        shared_yaxes=True,
        horizontal_spacing=0.05,
        vertical_spacing=between / total if n_rows > 1 else 0,
        subplot_titles=[METRICS[metric].title for metric in metrics],
    )
    names = [plain(shortened(str(name), _NAME_WIDTH)) for name in frame["method"]]
    for number, metric in enumerate(metrics):
        row, column = number // _N_COLUMNS + 1, number % _N_COLUMNS + 1
        figure.add_trace(_points(frame, metric), row=row, col=column)
        figure.update_xaxes(title_text=METRICS[metric].meaning, row=row, col=column)
        figure.update_xaxes(title={"font": {"size": 12}, "standoff": 4}, row=row, col=column)
        if "drop" in metric:
            figure.update_xaxes(range=_range_of_drops(frame, metric), row=row, col=column)
    figure.update_yaxes(
        autorange=False,
        range=[len(frame) - 0.5, -0.5],
        tickvals=list(range(len(frame))),
        ticktext=names,
        title_text="",
    )
    figure.update_annotations(font={"size": 13})
    figure = themed(figure, title="Methods side by side", height=total + 150)
    figure.update_xaxes(title={"font": {"size": 12}})
    return figure.update_layout(showlegend=False)


def _range_of_drops(frame: pd.DataFrame, metric: str) -> list[float]:
    """Wide enough that differences which nobody would care for are not blown up."""
    ends = frame[[f"{metric}_low", f"{metric}_high"]].to_numpy(dtype=float)
    low = min(float(np.nanmin(ends)), -_DROP_SEEN / 5)
    high = max(float(np.nanmax(ends)), _DROP_SEEN)
    margin = 0.05 * (high - low)
    return [low - margin, high + margin]


def _points(frame: pd.DataFrame, metric: str) -> go.Scatter:
    value, low, high = (frame[metric + end].to_numpy(dtype=float) for end in ("", "_low", "_high"))
    return go.Scatter(
        x=value,
        y=np.arange(len(frame)),
        mode="markers",
        marker={"color": [COLOURS[0] if row == 0 else COLOURS[5] for row in range(len(frame))]},
        error_x={
            **{"type": "data", "symmetric": False, "color": COLOURS[5], "thickness": 1.5},
            **{"array": high - value, "arrayminus": value - low},
        },
        customdata=np.stack([low, high], axis=1),
        text=[plain(str(name)) for name in frame["method"]],
        hovertemplate="%{text}: %{x:.3f} [%{customdata[0]:.3f}, %{customdata[1]:.3f}]"
        "<extra></extra>",
    )
