"""Alignment of codes with known labels."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots

from clvq_lens.plots.inputs import numbers
from clvq_lens.plots.text import plain, shortened
from clvq_lens.plots.theme import COLORS, FONT_PX, GRAY, LINE_PX, NAME_WIDTH, themed

_N_LABELS = 20
_MOST_COUNTED = 40  # bars, of two methods: with three, 5 and 4 side by side read as 54
_METHOD_COLORS = COLORS[:-1]  # gray, the last one, marks the threshold
_PANELS = {
    "codes_aligned": "codes aligned",
    "tokens_covered": "tokens in aligned codes",
    "labels_found": "labels with a code",
}


def plot_alignment(curve: pd.DataFrame, labels: pd.DataFrame, *, threshold: float) -> go.Figure:
    """The fractions over the threshold beside shuffled labels; below, how much of each label.

    Args:
        curve: `Alignment.over_thresholds` for several thresholds.
        labels: `Alignment.labels`; the 20 commonest are drawn.
        threshold: The threshold of ``labels``, which is marked.
    """
    names = list(dict.fromkeys(labels["label"]))[:_N_LABELS]
    figure = make_subplots(
        rows=2,
        cols=3,
        specs=[[{}, {}, {}], [{"colspan": 3}, None, None]],
        vertical_spacing=0.2,
        horizontal_spacing=0.07,
        subplot_titles=list(_PANELS.values()),
    )
    for number, (method, rows) in enumerate(curve.groupby("method", sort=False)):
        _draw_curves(figure, str(method), pd.DataFrame(rows), number)
    drawn = labels[labels["label"].isin(names)]
    counted = len(drawn) <= _MOST_COUNTED
    for number, (method, rows) in enumerate(drawn.groupby("method", sort=False)):
        _draw_bars(figure, str(method), pd.DataFrame(rows), number, counted=counted)
    _mark_threshold(figure, threshold)
    _describe_bars(figure, names, threshold, counted=counted)
    figure.update_annotations(font_size=FONT_PX)
    figure = themed(figure, title="Which codes are a known label?", height=720)
    return figure.update_layout(bargap=0.25, margin_t=104)  # titles of panels, below the legend


def _color(number: int) -> str:
    """The color of a method, the same in curves and bars."""
    return _METHOD_COLORS[number % len(_METHOD_COLORS)]


def _draw_curves(figure: go.Figure, method: str, rows: pd.DataFrame, number: int) -> None:
    """The codes of a method in every panel above, and the same with shuffled labels."""
    method = plain(method)
    thresholds = numbers(rows, "threshold")
    for column, metric in enumerate(_PANELS, start=1):
        codes = _curve(thresholds, numbers(rows, metric), hover=method, color=_color(number))
        codes.update(name=method, legendgroup=method, showlegend=column == 1)
        hover = f"{method}, labels shuffled"
        shuffled = numbers(rows, f"{metric}_shuffled")
        control = _curve(thresholds, shuffled, hover=hover, color=_color(number))
        control.update(name="labels shuffled", legendgroup="shuffled", line_dash="dot")
        # One entry for the controls of all methods: they are read by their dots.
        control.update(showlegend=column == 1 and number == 0)
        figure.add_trace(codes, row=1, col=column)
        figure.add_trace(control, row=1, col=column)


def _curve(
    thresholds: Float[np.ndarray, " n"],
    values: Float[np.ndarray, " n"],
    *,
    hover: str,
    color: str,
) -> go.Scatter:
    return go.Scatter(
        x=thresholds,
        y=values,
        mode="lines",
        line={"color": color, "dash": "solid", "width": LINE_PX},
        hovertemplate=f"{hover}<br>threshold %{{x:.2f}}<br>%{{y:.3f}}<extra></extra>",
    )


def _draw_bars(
    figure: go.Figure, method: str, rows: pd.DataFrame, number: int, *, counted: bool
) -> None:
    """How much of each label the codes of a method cover, and how many codes these are."""
    method = plain(method)
    # A bar without codes has no height.
    counts = [str(n) if n else "" for n in rows["n_codes"]] if counted else None
    figure.add_bar(
        x=list(map(plain, rows["label"])),
        y=rows["covered"],
        legendgroup=method,
        showlegend=False,
        marker={"color": _color(number)},
        text=counts,
        textposition="outside",
        customdata=rows[["n_tokens", "n_codes"]],
        hovertemplate=f"{method}<br>%{{x}}, %{{customdata[0]:,}} tokens"
        "<br>%{y:.1%} in %{customdata[1]} codes<extra></extra>",
        row=2,
        col=1,
    )


def _mark_threshold(figure: go.Figure, threshold: float) -> None:
    """Axes of the panels above, and a line at the threshold of the bars below them."""
    figure.update_yaxes(title_text="fraction", row=1, col=1)
    line = {"color": GRAY, "dash": "dash", "width": 1}
    for column in range(1, len(_PANELS) + 1):
        number = "" if column == 1 else column  # plotly's first axes have none
        # A shape, not a trace: it needs neither a place in the legend nor a hover.
        figure.add_shape(
            type="line",
            x0=threshold,
            x1=threshold,
            y0=0,
            y1=1,
            line=line,
            xref=f"x{number}",
            yref=f"y{number} domain",
        )
        figure.update_yaxes(range=[-0.03, 1.03], row=1, col=column)
        figure.update_xaxes(
            title_text="threshold", tickvals=[0.6, 0.7, 0.8, 0.9, 1.0], row=1, col=column
        )


def _describe_bars(
    figure: go.Figure, names: Sequence[str], threshold: float, *, counted: bool
) -> None:
    numbers_shown = " (how many)" if counted else ""
    figure.update_yaxes(
        title_text=f"part of its tokens in codes<br>aligned at {threshold:g}{numbers_shown}",
        range=[0, 1.1],  # room for the numbers on top of the bars
        row=2,
        col=1,
    )
    figure.update_xaxes(
        title_text="label, the commonest first",
        tickvals=list(map(plain, names)),
        ticktext=[plain(shortened(name, NAME_WIDTH)) for name in names],
        row=2,
        col=1,
    )
