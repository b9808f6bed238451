"""The codes in use, and what they mean."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Int

from clvq_lens.plots.text import plain
from clvq_lens.plots.theme import COLOURS, themed


def plot_usage(usage: Int[np.ndarray, " k"]) -> go.Figure:
    """Share of each code, the most used first, beside uniform use.

    Args:
        usage: Tokens in each code.
    """
    shares = np.sort(usage)[::-1] / max(1, usage.sum())
    rank = np.arange(1, len(shares) + 1)
    figure = go.Figure()
    figure.add_scatter(x=rank, y=shares, name="codes", mode="lines", line={"color": COLOURS[0]})
    uniform = np.full(len(shares), 1 / len(shares))
    line = {"color": COLOURS[5], "dash": "dot"}
    figure.add_scatter(x=rank, y=uniform, name="uniform use", mode="lines", line=line)
    figure.update_xaxes(title_text="rank of the code by usage")
    figure.update_yaxes(title_text="share of tokens", type="log", exponentformat="power")
    return themed(figure, title="Usage of codes")


def plot_concepts(frame: pd.DataFrame) -> go.Figure:
    """The concept table, the most used code first.

    Args:
        frame: From `ConceptTable.frame()`.
    """
    cells = [
        frame["code"],
        frame["usage"],
        [f"{share:.2%}" for share in frame["share"]],
        [plain(tokens) for tokens in frame["tokens"]],
        [plain(example) for example in frame["example"]],
    ]
    names = ["code", "usage (tokens)", "share", "commonest tokens", "a random example"]
    header = {"values": names, "align": "left", "fill": {"color": "rgba(128,128,128,0.25)"}}
    body = {"values": cells, "align": "left", "height": 24, "fill": {"color": "rgba(0,0,0,0)"}}
    table = go.Table(header=header, cells=body, columnwidth=[40, 70, 50, 220, 320])
    return themed(go.Figure(table), title="What each code means", height=640)
