"""Agreement of codes between fits of the same method."""

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from clvq_lens.plots.text import plain, shortened
from clvq_lens.plots.theme import COLOURS, themed

_NAME_WIDTH = 24
_PANELS = {
    "ami": "adjusted mutual information:<br>1 the same partition, 0 chance",
    "matched": "tokens with the same code,<br>codes matched (fraction)",
    "cosine": "cosine of matched code vectors,<br>relative to their mean",
}


def plot_stability(methods: pd.DataFrame, pairs: pd.DataFrame) -> go.Figure:
    """Mean agreement of each method with its interval, every pair of fits, and shuffled codes.

    Args:
        methods: `Stability.frame`.
        pairs: `Stability.pairs_frame`.
    """
    figure = make_subplots(rows=1, cols=3, shared_yaxes=True, horizontal_spacing=0.05)
    names = list(methods["method"])
    place = pd.Series(range(len(names)), index=names)
    for column, (metric, title) in enumerate(_PANELS.items(), start=1):
        _draw(figure, metric, methods, pairs, place, column)
        low = min(0.0, pairs[[metric, f"{metric}_shuffled"]].min(axis=None)) - 0.05
        figure.update_xaxes(title_text=title, range=[low, 1.12], col=column)
    figure.update_yaxes(
        autorange=False, range=[len(names) - 0.5, -0.6], tickvals=list(range(len(names))),
        ticktext=[plain(shortened(name, _NAME_WIDTH)) for name in names],
    )  # fmt: skip
    figure.update_yaxes(title_text="method", col=1)
    title = "Do other fits find the same codes?"
    figure = themed(figure, title=title, height=220 + 52 * len(names))
    return figure.update_layout(margin_t=114)  # the legend has two lines on a narrow page


def _draw(
    figure: go.Figure,
    metric: str,
    methods: pd.DataFrame,
    pairs: pd.DataFrame,
    place: pd.Series,
    column: int,
) -> None:
    rows = place.loc[methods["method"]]
    figure.add_scatter(
        x=methods[f"{metric}_shuffled"],
        y=rows,
        mode="markers",
        name="codes shuffled" if metric != "cosine" else "codes matched at random",
        legendgroup="control",
        showlegend=column == 1,
        marker={"color": COLOURS[1], "symbol": "line-ns-open", "size": 12, "line": {"width": 3}},
        hovertemplate="shuffled %{x:.3f}<extra></extra>",
        row=1,
        col=column,
    )
    figure.add_scatter(
        x=pairs[metric],
        y=place.loc[pairs["method"]] + 0.22,  # below the mean, so that none hides another
        mode="markers",
        name="a pair of fits",
        legendgroup="pair",
        showlegend=column == 1,
        marker={"color": COLOURS[5], "symbol": "circle-open", "size": 7},
        customdata=pairs[["first", "second"]],
        hovertemplate="fits %{customdata[0]} and %{customdata[1]}<br>%{x:.3f}<extra></extra>",
        row=1,
        col=column,
    )
    figure.add_scatter(
        x=methods[metric],
        y=rows,
        mode="markers+text",
        name="mean over pairs, 95 % interval over documents",
        legendgroup="mean",
        showlegend=column == 1,
        marker={"color": COLOURS[0], "size": 9},
        error_x=_interval(methods, metric),
        text=["" if pd.isna(value) else f"{value:.2f}" for value in methods[metric]],
        textposition="top center",
        textfont={"size": 12},
        hovertext=[plain(name) for name in methods["method"]],
        hovertemplate="%{hovertext}<br>%{x:.3f}<extra></extra>",
        cliponaxis=False,
        row=1,
        col=column,
    )


def _interval(methods: pd.DataFrame, metric: str) -> dict[str, object] | None:
    if f"{metric}_low" not in methods:
        return None
    return {
        "array": methods[f"{metric}_high"] - methods[metric],
        "arrayminus": methods[metric] - methods[f"{metric}_low"],
        "symmetric": False,
    }
