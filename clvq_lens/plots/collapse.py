"""Codes across layers against the clusters that each layer finds on its own."""

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from clvq_lens.plots.inputs import HasFrame, as_frame
from clvq_lens.plots.text import plain
from clvq_lens.plots.theme import COLOURS, themed

_CHANCE = "codes, shuffled"
_PANELS = {
    "ami": "AMI with the layer's own clusters:<br>1 the same, 0 chance",
    "clusters_per_code": "own clusters that a code gathers<br>(effective number)",
    "fvu": "FVU, held-out tokens:<br>0 perfect, 1 the mean",
    "own_needed": "own clusters that reach<br>the same FVU",
}
_DASHES = ("solid", "dash", "dashdot", "longdash")
_ASIDE = 0.05  # of the distance between layers, so that no interval hides another


def plot_collapse(collapse: pd.DataFrame | HasFrame) -> go.Figure:
    """Agreement, gathered clusters, FVU and clusters needed for it: one line for each method.

    Shuffled codes are told in words: on the same axis they would press all others together.

    Args:
        collapse: A `Collapse`, or its table.
    """
    frame = as_frame(collapse)
    layers = list(dict.fromkeys(frame["layer"]))
    figure = make_subplots(
        rows=2, cols=2, shared_xaxes=True, horizontal_spacing=0.14, vertical_spacing=0.14
    )
    place = pd.Series(range(len(layers)), index=layers, dtype=float)
    drawn = frame.loc[frame["method"] != _CHANCE].groupby("method", sort=False)
    for number, (method, rows) in enumerate(drawn):
        aside = (number - (drawn.ngroups - 1) / 2) * _ASIDE
        _draw(figure, str(method), pd.DataFrame(rows), place + aside, number)
    chance = frame.loc[frame["method"] == _CHANCE, list(_PANELS)].mean()
    for panel, (metric, title) in enumerate(_PANELS.items()):
        row, column = panel // 2 + 1, panel % 2 + 1
        figure.update_yaxes(title_text=title, row=row, col=column)
        number = "" if panel == 0 else panel + 1
        figure.add_annotation(
            text=f"codes shuffled: {round(chance[metric], 2) + 0.0:.3g}",  # never -0
            xref=f"x{number} domain",
            yref=f"y{number} domain",
            **{"x": 1, "y": 1, "xanchor": "right", "yanchor": "bottom", "showarrow": False},
        )
    figure.update_xaxes(tickvals=place.tolist(), ticktext=[plain(_short(name)) for name in layers])
    figure.update_xaxes(title_text="layer (residual stream after that block)", row=2)
    figure = themed(figure, title="Does one code stand for what every layer finds?", height=710)
    return figure.update_layout(legend_y=1.06, margin_t=134)


def _draw(
    figure: go.Figure, method: str, rows: pd.DataFrame, place: pd.Series, number: int
) -> None:
    """One method in all panels."""
    beyond = ["more than " if more else "" for more in rows["beyond"]]
    for panel, metric in enumerate(_PANELS):
        bound = beyond if metric == "own_needed" else [""] * len(rows)
        figure.add_scatter(
            x=place.loc[rows["layer"]],
            y=rows[metric],
            mode="lines+markers",
            name=plain(method),
            legendgroup=plain(method),
            showlegend=panel == 0,
            line={
                "color": COLOURS[number % len(COLOURS)],
                "dash": _DASHES[number % len(_DASHES)],
                "width": 2,
            },
            error_y=_interval(rows, metric),
            customdata=list(zip(map(plain, rows["layer"]), bound, strict=True)),
            hovertemplate=f"{plain(method)}<br>%{{customdata[0]}}"
            "<br>%{customdata[1]}%{y:.4g}<extra></extra>",
            row=panel // 2 + 1,
            col=panel % 2 + 1,
        )


def _interval(rows: pd.DataFrame, metric: str) -> dict[str, object] | None:
    if f"{metric}_low" not in rows:
        return None
    ends = {"array": rows[f"{metric}_high"] - rows[metric], "symmetric": False}
    return {**ends, "arrayminus": rows[metric] - rows[f"{metric}_low"], "width": 3}


def _short(layer: str) -> str:
    """Block number of a residual stream after a block, or the whole name."""
    parts = layer.split(".")
    return parts[1] if parts[0] == "blocks" and parts[-1] == "hook_resid_post" else layer
