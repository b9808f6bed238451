"""Agreement of codes between fits of the same method."""

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from clvq_lens.plots.inputs import whiskers_of
from clvq_lens.plots.text import plain, shortened
from clvq_lens.plots.theme import BLUE, CONTROL_MARK, GRAY, MARK_PX, NAME_WIDTH, themed
from clvq_lens.showing import told_apart

_PANELS = {
    "ami": "adjusted mutual information:<br>1 the same partition, 0 chance",
    "matched": "tokens with the same code,<br>codes matched (fraction)",
    "cosine": "cosine of matched code vectors,<br>relative to their mean",
}
_BELOW = 0.22  # part of a row: pairs stand below their mean, so that none hides it


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
        # What is drawn last lies on top: the means.
        for trace in (
            _controls(methods, metric, place),
            _pairs(pairs, metric, place),
            _means(methods, metric, place),
        ):
            figure.add_trace(trace.update(showlegend=column == 1), row=1, col=column)
        low = min(0.0, pairs[[metric, f"{metric}_shuffled"]].min(axis=None)) - 0.05
        figure.update_xaxes(title_text=title, range=[low, 1.12], col=column)
    figure.update_yaxes(
        autorange=False,
        range=[len(names) - 0.5, -0.6],  # the first method on top, with room for its number
        tickvals=list(range(len(names))),
        ticktext=[plain(shortened(name, NAME_WIDTH)) for name in names],
        zeroline=False,  # the first method stands at 0, which means nothing
    )
    figure.update_yaxes(title_text="method", col=1)
    title = "Do other fits find the same codes?"
    figure = themed(figure, title=title, height=220 + 52 * len(names))
    return figure.update_layout(legend_traceorder="reversed")  # what was measured comes first


def _controls(methods: pd.DataFrame, metric: str, place: pd.Series) -> go.Scatter:
    """The agreement of shuffled codes."""
    return go.Scatter(
        x=methods[f"{metric}_shuffled"],
        y=place.loc[methods["method"]],
        mode="markers",
        # Shuffling changes no code vector, so cosines have a control of their own.
        name="codes shuffled" if metric != "cosine" else "codes matched at random",
        legendgroup="control",
        marker=CONTROL_MARK,
        hovertemplate="shuffled %{x:.3g}<extra></extra>",
    )


def _pairs(pairs: pd.DataFrame, metric: str, place: pd.Series) -> go.Scatter:
    return go.Scatter(
        x=pairs[metric],
        y=place.loc[pairs["method"]] + _BELOW,
        mode="markers",
        name="a pair of fits",
        legendgroup="pair",
        marker={"color": GRAY, "symbol": "circle-open", "size": 7},
        customdata=pairs[["first", "second"]],
        hovertemplate="fits %{customdata[0]} and %{customdata[1]}<br>%{x:.3f}<extra></extra>",
    )


def _means(methods: pd.DataFrame, metric: str, place: pd.Series) -> go.Scatter:
    return go.Scatter(
        x=methods[metric],
        y=place.loc[methods["method"]],
        mode="markers+text",
        name="mean over pairs, 95 % interval over documents",
        legendgroup="mean",
        marker={"color": BLUE, "size": MARK_PX},
        error_x=whiskers_of(methods, metric),
        text=list(map(_written, methods[metric])),
        textposition="top center",
        textfont={"size": 12},
        hovertext=list(map(plain, methods["method"])),
        hovertemplate="%{hovertext}<br>%{x:.4g}<extra></extra>",
        cliponaxis=False,  # the number of a value near 1 reaches beyond the panel
    )


def _written(value: float) -> str:
    """The number above a mean; nothing where code vectors differ in width and have no cosine."""
    return told_apart(value, digits=2)[0]
