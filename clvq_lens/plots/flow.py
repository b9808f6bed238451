"""How concepts flow from layer to layer."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from clvq_lens.plots.theme import COLOURS, themed


def plot_causal_flow(frame: pd.DataFrame) -> go.Figure:
    """Causal against observed flow: every pair of codes a point, beside its control.

    Args:
        frame: From `CausalFlow.frame()`.
    """
    rows = frame[frame["n_both"] > 0]
    columns = ("source", "code", "target", "next_code", "n_both")
    names = [
        f"{source} code {code} to {target} code {following}<br>{n_both} tokens"
        for source, code, target, following, n_both in zip(
            *(rows[column] for column in columns), strict=True
        )
    ]
    observed = np.asarray(rows["observed"], dtype=float)
    figure = go.Figure()
    shown = (("control", "codes of the same share", COLOURS[5]), ("effect", "code", COLOURS[0]))
    for column, who, colour in shown:
        figure.add_scattergl(
            x=observed,
            y=np.asarray(rows[column], dtype=float),
            text=names,
            mode="markers",
            name=f"{who} ablated",
            marker={"color": colour, "size": 6, "opacity": 0.5},
            hovertemplate="%{text}<br>observed %{x:.3f}<br>change %{y:.3f}<extra></extra>",
        )
    line = {"color": COLOURS[5], "dash": "dot"}
    figure.add_scatter(
        x=[0, 1], y=[0, -1], mode="lines", line=line, name="all of it lost", hoverinfo="skip"
    )
    figure.update_xaxes(title_text="observed: chance of the next code, given the code")
    figure.update_yaxes(title_text="causal: change of the next code<br>per ablated token")
    return themed(figure, title="Observed and causal flow of concepts", height=520)
