"""The course of a fit."""

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from clvq_lens.plots.inputs import HasFrame, as_frame
from clvq_lens.plots.theme import COLOURS, themed


def plot_history(history: pd.DataFrame | HasFrame) -> go.Figure:
    """FVU, codes in use and, if it was trained on, KL over the tokens seen.

    Args:
        history: A `History`, or its table.
    """
    frame = as_frame(history)
    panels = [
        ("FVU", {"fvu": "training (sampled codes)", "held_out_fvu": "held out (nearest codes)"}),
        ("codes", {"perplexity": "perplexity", "n_dead_codes": "dead codes"}),
    ]
    if bool(frame["kl"].notna().any()):
        panels.append(
            ("KL in nats per token", {"kl": "KL, training", "held_out_kl": "KL, held out"})
        )
    figure = make_subplots(rows=len(panels), cols=1, shared_xaxes=True, vertical_spacing=0.08)
    for row, (axis, lines) in enumerate(panels, start=1):
        for index, (column, name) in enumerate(lines.items()):
            values = frame[column]
            if bool(values.notna().any()):
                line = {"color": COLOURS[(2 * (row - 1) + index) % len(COLOURS)], "width": 2}
                trace = go.Scatter(
                    x=frame["n_tokens"], y=values, name=name, mode="lines+markers", line=line
                )
                figure.add_trace(trace, row=row, col=1)
        figure.update_yaxes(title_text=axis, rangemode="tozero", row=row, col=1)
    figure.update_xaxes(title_text="training tokens", row=len(panels), col=1)
    return themed(figure, title="Training history", height=120 + 210 * len(panels))
