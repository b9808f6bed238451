"""Alignment of codes with known labels."""

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from clvq_lens.plots.text import plain, shortened
from clvq_lens.plots.theme import COLOURS, themed

_NAME_WIDTH = 24
_N_LABELS = 20
_PANELS = {
    "codes_aligned": "codes aligned (fraction)",
    "tokens_covered": "tokens in aligned codes (fraction)",
    "labels_found": "labels with a code (fraction)",
}


def plot_alignment(curve: pd.DataFrame, labels: pd.DataFrame, *, threshold: float) -> go.Figure:
    """The fractions over the threshold beside shuffled labels; below, how much of each label.

    Args:
        curve: `Alignment.at` of several thresholds.
        labels: `Alignment.labels`; the 20 commonest are drawn.
        threshold: That of the labels, marked.
    """
    names = list(dict.fromkeys(labels["label"]))[:_N_LABELS]
    figure = make_subplots(
        rows=2,
        cols=3,
        specs=[[{}, {}, {}], [{"colspan": 3}, None, None]],
        vertical_spacing=0.2,
        horizontal_spacing=0.07,
    )
    methods = curve.groupby("method", sort=False)
    for number, (method, rows) in enumerate(methods):
        _curves(figure, str(method), rows, COLOURS[number % 5], first=number == 0)
    drawn = labels[labels["label"].isin(names)].groupby("method", sort=False)
    for number, (_, rows) in enumerate(drawn):
        _bars(figure, pd.DataFrame(rows), COLOURS[number % 5])
    for column, title in enumerate(_PANELS.values(), start=1):
        line = {"color": COLOURS[5], "dash": "dash", "width": 1}
        number = "" if column == 1 else column
        axes = {"xref": f"x{number}", "yref": f"y{number} domain"}
        figure.add_shape(type="line", x0=threshold, x1=threshold, y0=0, y1=1, line=line, **axes)
        figure.update_yaxes(title_text=title, range=[-0.03, 1.03], row=1, col=column)
        figure.update_xaxes(
            title_text="threshold", tickvals=[0.6, 0.7, 0.8, 0.9, 1.0], row=1, col=column
        )
    figure.update_yaxes(
        title_text=f"part of its tokens in codes<br>aligned at {threshold:g} (how many)",
        range=[0, 1.1],
        row=2,
        col=1,
    )
    figure.update_xaxes(
        title_text="label, the commonest first",
        tickvals=[plain(name) for name in names],
        ticktext=[plain(shortened(name, _NAME_WIDTH)) for name in names],
        row=2,
        col=1,
    )
    figure = themed(figure, title="Which codes are a known label?", height=720)
    return figure.update_layout(bargap=0.25)


def _curves(
    figure: go.Figure, method: str, rows: pd.DataFrame, colour: str, *, first: bool
) -> None:
    for column, metric in enumerate(_PANELS, start=1):
        for name, values, dash in (
            (plain(method), rows[metric], "solid"),
            ("labels shuffled", rows[f"{metric}_shuffled"], "dot"),
        ):
            control = dash == "dot"
            figure.add_scatter(
                x=rows["threshold"],
                y=values,
                mode="lines",
                name=name,
                legendgroup="shuffled" if control else plain(method),
                showlegend=column == 1 and (first or not control),
                line={"color": colour, "dash": dash, "width": 2},
                hovertemplate=f"{plain(method)}{', labels shuffled' if control else ''}"
                "<br>threshold %{x:.2f}<br>%{y:.3f}<extra></extra>",
                row=1,
                col=column,
            )


def _bars(figure: go.Figure, rows: pd.DataFrame, colour: str) -> None:
    figure.add_bar(
        x=[plain(name) for name in rows["label"]],
        y=rows["covered"],
        legendgroup=plain(str(rows["method"].iloc[0])),
        showlegend=False,
        marker={"color": colour},
        text=[str(n) if n else "" for n in rows["n_codes"]],
        textposition="outside",
        customdata=rows[["n_tokens", "n_codes"]],
        hovertemplate=f"{plain(str(rows['method'].iloc[0]))}<br>%{{x}}, %{{customdata[0]:,}} tokens"
        "<br>%{y:.1%} in %{customdata[1]} codes<extra></extra>",
        row=2,
        col=1,
    )
