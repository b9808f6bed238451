"""Codes across layers against the clusters that each layer finds on its own."""

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from clvq_lens.plots.inputs import HasFrame, as_frame, numbers, whiskers_of
from clvq_lens.plots.text import plain
from clvq_lens.plots.theme import COLORS, LINE_PX, themed

_PANELS = {
    "ami": "AMI with the layer's own clusters:<br>1 the same, 0 chance",
    "clusters_per_code": "own clusters that a code gathers<br>(effective number)",
    "fvu": "FVU, held-out tokens:<br>0 perfect, 1 the mean",
    "own_needed": "own clusters that reach<br>the same FVU",
}
_DASHES = ("solid", "dash", "dashdot", "longdash")
_ASIDE = 0.05  # part of the distance between layers: no interval hides that of another method


def plot_collapse(collapse: pd.DataFrame | HasFrame, *, chance: str) -> go.Figure:
    """Agreement, gathered clusters, FVU and clusters needed for it: one line for each method.

    Chance is told in words: on the same axis it would press all others together.

    Args:
        collapse: A `Collapse`, or its table.
        chance: The method that stands for chance, such as "codes, shuffled".
    """
    frame = as_frame(collapse)
    layers = list(dict.fromkeys(frame["layer"]))
    figure = make_subplots(
        rows=2, cols=2, shared_xaxes=True, horizontal_spacing=0.14, vertical_spacing=0.14
    )
    place = pd.Series(range(len(layers)), index=layers, dtype=float)
    methods = frame.loc[frame["method"] != chance].groupby("method", sort=False)
    for number, (method, rows) in enumerate(methods):
        aside = (number - (methods.ngroups - 1) / 2) * _ASIDE
        _draw(figure, str(method), pd.DataFrame(rows), place + aside, number)
    figure.update_traces(error_y_width=3)
    _tell_chance(figure, frame.loc[frame["method"] == chance])
    figure.update_xaxes(tickvals=place.tolist(), ticktext=list(map(_short, layers)), zeroline=False)
    figure.update_xaxes(title_text="layer (residual stream after that block)", row=2)
    figure = themed(figure, title="Does one code stand for what every layer finds?", height=710)
    return figure.update_layout(margin_t=120)  # room for the words on chance below the legend


def _draw(
    figure: go.Figure, method: str, rows: pd.DataFrame, place: pd.Series, number: int
) -> None:
    """One method in all panels."""
    for panel, metric in enumerate(_PANELS):
        figure.add_scatter(
            x=place.loc[rows["layer"]],
            y=rows[metric],
            mode="lines+markers",
            name=plain(method),
            legendgroup=plain(method),
            showlegend=panel == 0,
            line={
                "color": COLORS[number % len(COLORS)],
                "dash": _DASHES[number % len(_DASHES)],
                "width": LINE_PX,
            },
            error_y=whiskers_of(rows, metric),
            customdata=_layers_and_bounds(rows, metric),
            hovertemplate=f"{plain(method)}<br>%{{customdata[0]}}"
            "<br>%{customdata[1]}%{y:.4g}<extra></extra>",
            row=panel // 2 + 1,
            col=panel % 2 + 1,
        )


def _layers_and_bounds(rows: pd.DataFrame, metric: str) -> list[tuple[str, str]]:
    """What the hover says beside the value: the layer, and whether the value is a lower bound."""
    described = []
    for layer, beyond in zip(rows["layer"], rows["beyond"], strict=True):
        # The largest number of clusters that was tried stands where not even that one was enough.
        is_bound = metric == "own_needed" and beyond
        described.append((plain(layer), "more than " if is_bound else ""))
    return described


def _tell_chance(figure: go.Figure, rows: pd.DataFrame) -> None:
    """Titles of the panels, and above each of them the mean of chance over layers."""
    for panel, (metric, title) in enumerate(_PANELS.items()):
        figure.update_yaxes(title_text=title, row=panel // 2 + 1, col=panel % 2 + 1)
        if not len(rows):
            continue
        number = "" if panel == 0 else panel + 1  # plotly's first axes have none
        mean = round(float(numbers(rows, metric).mean()), 2) + 0.0  # never -0
        figure.add_annotation(
            text=f"codes shuffled: {mean:.3g}",
            xref=f"x{number} domain",
            yref=f"y{number} domain",
            x=1,
            y=1,
            xanchor="right",
            yanchor="bottom",
            showarrow=False,
        )


def _short(layer: str) -> str:
    """Block number of a residual stream after a block, or the whole name."""
    parts = layer.split(".")
    is_after_block = parts[0] == "blocks" and parts[-1] == "hook_resid_post"
    return plain(parts[1] if is_after_block else layer)
