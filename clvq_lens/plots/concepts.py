"""The codes in use, and what they mean."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Int

from clvq_lens.plots.inputs import HasFrame, as_frame
from clvq_lens.plots.text import plain
from clvq_lens.plots.theme import COLOURS, GREY, themed

_N_MARKED = 80  # with more codes, markers would merge into a band


def plot_usage(usage: Int[np.ndarray, " k"]) -> go.Figure:
    """Share of each code, the most used first, beside uniform use; unused codes are counted.

    Args:
        usage: Tokens in each code.
    """
    n_codes, n_tokens = len(usage), int(usage.sum())
    order = np.argsort(-usage, kind="stable")
    order = order[usage[order] > 0]
    n_used = len(order)
    figure = go.Figure()
    figure.add_scatter(
        x=np.arange(1, n_used + 1),
        y=usage[order] / max(1, n_tokens),
        name=f"codes in use ({n_used:,})",
        mode="lines+markers" if n_used < _N_MARKED else "lines",
        line={"color": COLOURS[0], "width": 2},
        customdata=np.stack([order, usage[order]], axis=1),
        hovertemplate="rank %{x}<br>code %{customdata[0]}<br>%{customdata[1]:,} tokens"
        "<br>share %{y:.3%}<extra></extra>",
    )
    figure.add_scatter(
        x=[1, n_codes],
        y=[1 / max(1, n_codes)] * 2,
        name=f"uniform use (1/{n_codes:,})",
        mode="lines",
        line={"color": COLOURS[5], "dash": "dot"},
        hoverinfo="skip",
    )
    if n_used < n_codes:
        _mark_unused(figure, n_used, n_codes, n_tokens)
    figure.update_xaxes(title_text="rank of the code by usage", range=[0.5, n_codes + 0.5])
    wide = n_used and usage.max() > 500 * usage[order].min()  # more than that: powers of ten only
    figure.update_yaxes(
        title_text="share of tokens (log scale)",
        type="log",
        tickformat="~%",
        dtick=1 if wide else "D2",
    )
    return themed(figure, title="Usage of codes")


def _mark_unused(figure: go.Figure, n_used: int, n_codes: int, n_tokens: int) -> None:
    """A share of zero has no place on a log scale, so unused codes are a shaded band."""
    n = n_codes - n_used
    left = 2 * n_used > n_codes  # where there is room for the text
    figure.add_vrect(
        x0=n_used + 0.5,
        x1=n_codes + 0.5,
        fillcolor=GREY,
        line_width=0,
        annotation={
            "text": f"{n:,} dead {'code' if n == 1 else 'codes'}:<br>none of {n_tokens:,} tokens",
            "x": n_used + 0.5,
            "xanchor": "right" if left else "left",
            "y": 1,
            "yanchor": "top",
            "align": "right" if left else "left",
        },
    )


def plot_concepts(table: pd.DataFrame | HasFrame) -> go.Figure:
    """The concept table, the most used code first.

    Args:
        table: A `ConceptTable`, or its table.
    """
    frame = as_frame(table)
    cells = [
        frame["code"],
        frame["usage"],
        [f"{share:.2%}" for share in frame["share"]],
        [plain(tokens) for tokens in frame["tokens"]],
        [plain(example.strip()) for example in frame["example"]],
    ]
    names = ["code", "usage (tokens)", "share", "commonest tokens", "an example"]
    both = {"align": "left", "line": {"color": GREY}}
    header = {"values": names, "fill": {"color": GREY}, **both}
    body = {"values": cells, "height": 24, "fill": {"color": "rgba(0,0,0,0)"}, **both}
    drawn = go.Table(header=header, cells=body, columnwidth=[50, 70, 60, 220, 320])
    figure = themed(go.Figure(drawn), title="What each code means", height=640)
    return figure.update_layout(margin_t=56)
