"""The codes in use, and what they mean."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Int

from clvq_lens.plots.inputs import HasFrame, as_frame
from clvq_lens.plots.text import plain, visible
from clvq_lens.plots.theme import BLUE, CLEAR, FAINT, LINE_PX, REFERENCE_LINE, log_ticks, themed

_N_MARKED = 80  # with more codes, markers would merge into a band
_ROW_PX = 24  # height of a row of the table


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
        line={"color": BLUE, "width": LINE_PX},
        customdata=np.stack([order, usage[order]], axis=1),
        hovertemplate="rank %{x}<br>code %{customdata[0]}<br>%{customdata[1]:,} tokens"
        "<br>share %{y:.3%}<extra></extra>",
    )
    figure.add_scatter(
        x=[1, n_codes],
        y=[1 / max(1, n_codes)] * 2,
        name=f"uniform use (1/{n_codes:,})",
        mode="lines",
        line=REFERENCE_LINE,
        hoverinfo="skip",
    )
    if n_used < n_codes:
        _mark_unused(figure, n_used, n_codes, n_tokens)
    figure.update_xaxes(title_text="rank of the code by usage", range=[0.5, n_codes + 0.5])
    figure.update_yaxes(
        title_text="share of tokens (log scale)",
        type="log",
        tickformat="~%",
        dtick=log_ticks(usage[order]),
    )
    return themed(figure, title="Usage of codes")


def _mark_unused(figure: go.Figure, n_used: int, n_codes: int, n_tokens: int) -> None:
    """Shows unused codes as a shaded band: a share of zero has no place on a log scale."""
    n = n_codes - n_used
    side = "right" if 2 * n_used > n_codes else "left"  # the text grows to where there is room
    figure.add_vrect(
        x0=n_used + 0.5,
        x1=n_codes + 0.5,
        fillcolor=FAINT,
        line_width=0,
        annotation={
            "text": f"{n:,} dead {'code' if n == 1 else 'codes'}:<br>none of {n_tokens:,} tokens",
            "x": n_used + 0.5,
            "xanchor": side,
            "y": 1,
            "yanchor": "top",
            "align": side,
        },
    )


def plot_concepts(table: pd.DataFrame | HasFrame) -> go.Figure:
    """The concept table, the most used code first.

    Args:
        table: A `ConceptTable`, or its table.
    """
    frame = as_frame(table)
    columns = {
        "code": frame["code"],
        "usage (tokens)": frame["usage"],
        "share": frame["share"].map("{:.2%}".format),
        "commonest tokens": frame["tokens"].map(_readable),
        "an example": frame["example"].map(_readable),
    }
    look = {"align": "left", "line": {"color": FAINT}}
    header = {"values": list(columns), "fill": {"color": FAINT}, **look}
    rows = {"values": list(columns.values()), "height": _ROW_PX, "fill": {"color": CLEAR}, **look}
    cells = go.Table(header=header, cells=rows, columnwidth=[60, 80, 70, 190, 320])
    figure = themed(go.Figure(cells), title="What each code means", height=640)
    # A table has neither a legend above it nor axes beside it.
    return figure.update_layout(margin={"l": 16, "r": 16, "t": 56, "b": 16})


def _readable(text: str) -> str:
    """A text in a cell: line ends and tabs are seen, and so is one of white space alone."""
    ends_seen = text.replace("\n", visible("\n")).replace("\t", visible("\t"))
    return plain(ends_seen.strip()) or visible(text)
