"""Methods side by side, metric by metric."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from clvq_lens.errors import DataError
from clvq_lens.plots.inputs import HasFrame, as_frame, intervals_shown, numbers, whiskers
from clvq_lens.plots.text import plain, shortened
from clvq_lens.plots.theme import BLUE, FONT_PX, GRAY, NAME_WIDTH, SMALL_FONT_PX, themed

_N_COLUMNS = 3
_BETWEEN_PX = 88  # two rows of panels, with the meanings of the one and the titles of the other
_DROP_SEEN = 0.05  # a drop of probability far below this one looks like none


def plot_comparison(
    comparison: pd.DataFrame | HasFrame, metrics: Mapping[str, tuple[str, str]]
) -> go.Figure:
    """One panel for each metric and one line for each method, with intervals.

    Args:
        comparison: A `Comparison`, or its table: ``method``, ``decoder``, and for each metric its
            value and the columns ``<metric>_low`` and ``<metric>_high``.
        metrics: The title of each metric and what its values mean, in the order of the panels.
            Metrics that the table lacks have no panel.

    Raises:
        DataError: If the table holds none of the metrics.
    """
    frame = as_frame(comparison)
    measured = _measured(frame, metrics)
    if not measured:
        raise DataError("The table holds no metric to draw. Pass the result of compare(...).")
    n_rows = -(-len(measured) // _N_COLUMNS)
    height = n_rows * (26 * len(frame) + 24) + (n_rows - 1) * _BETWEEN_PX
    figure = make_subplots(
        rows=n_rows,
        cols=_N_COLUMNS,
        shared_yaxes=True,
        horizontal_spacing=0.05,
        vertical_spacing=_BETWEEN_PX / height if n_rows > 1 else 0,
        subplot_titles=[title for title, _ in measured.values()],
    )
    for number, (metric, (_, meaning)) in enumerate(measured.items()):
        row, column = number // _N_COLUMNS + 1, number % _N_COLUMNS + 1
        figure.add_trace(_points(frame, metric), row=row, col=column)
        figure.update_xaxes(title={"text": meaning, "standoff": 4}, row=row, col=column)
        if "drop" in metric:
            figure.update_xaxes(range=_range_of_drops(frame, metric), row=row, col=column)
        elif not (numbers(frame, metric) < 0).any():
            # Plotly would put a count that is zero everywhere between -1 and 1.
            figure.update_xaxes(rangemode="nonnegative", row=row, col=column)
    _name_methods(figure, frame)
    figure.update_annotations(font={"size": FONT_PX})
    figure = themed(figure, title="Methods side by side", height=height + 150)
    # Only now: themed() gives the titles of all axes the size that suits a figure of one panel.
    figure.update_xaxes(title={"font": {"size": SMALL_FONT_PX}})
    return figure.update_layout(showlegend=False)


def _measured(
    frame: pd.DataFrame, metrics: Mapping[str, tuple[str, str]]
) -> dict[str, tuple[str, str]]:
    """The metrics that at least one method has."""
    measured: dict[str, tuple[str, str]] = {}
    for metric, title_and_meaning in metrics.items():
        if metric in frame and bool(frame[metric].notna().any()):
            measured[metric] = title_and_meaning
    return measured


def _name_methods(figure: go.Figure, frame: pd.DataFrame) -> None:
    """Writes the names of methods beside their lines, the first one on top."""
    figure.update_yaxes(
        autorange=False,
        range=[len(frame) - 0.5, -0.5],
        tickvals=list(range(len(frame))),
        ticktext=_names(frame, NAME_WIDTH),
        zeroline=False,  # the first method stands at 0, which means nothing
        title_text="",
    )


def _names(frame: pd.DataFrame, width: int | None = None) -> list[str]:
    """Names of methods, safe to show, with the decoder where a method has several.

    Only the method is shortened to ``width``: its rows are told apart by their decoders.
    """
    has_several = frame["method"].duplicated(keep=False)
    decoders = frame["decoder"] if "decoder" in frame else frame["method"]
    names: list[str] = []
    for method, decoder, several in zip(frame["method"], decoders, has_several, strict=True):
        name = str(method) if width is None else shortened(str(method), width)
        names.append(plain(f"{name}, {decoder}" if several else name))
    return names


def _range_of_drops(frame: pd.DataFrame, metric: str) -> list[float]:
    """Wide enough that differences which nobody would care for are not blown up."""
    ends = frame[[f"{metric}_low", f"{metric}_high"]].to_numpy(dtype=float)
    values = numbers(frame, metric)[:, None]
    known = np.concatenate([values, ends], axis=1)  # values too: they may have no interval
    low = min(float(np.nanmin(known)), -_DROP_SEEN / 5)
    high = max(float(np.nanmax(known)), _DROP_SEEN)
    margin = 0.05 * (high - low)
    return [low - margin, high + margin]


def _colors(frame: pd.DataFrame) -> list[str]:
    """The first method, with every decoder, is the one that the others are compared with."""
    is_first = frame["method"] == frame["method"].iloc[0]
    return np.where(is_first, BLUE, GRAY).tolist()


def _points(frame: pd.DataFrame, metric: str) -> go.Scatter:
    value, low = numbers(frame, metric), numbers(frame, f"{metric}_low")
    high = numbers(frame, f"{metric}_high")
    return go.Scatter(
        x=value,
        y=np.arange(len(frame)),
        mode="markers",
        marker={"color": _colors(frame)},
        cliponaxis=False,  # marks at zero are whole
        error_x={
            "type": "data",
            "color": GRAY,
            "thickness": 1.5,
            **whiskers(value, low, high),
        },
        customdata=intervals_shown(value, low, high),
        text=_names(frame),
        hovertemplate="%{text}: %{customdata}<extra></extra>",
    )
