"""A report in pictures."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from clvq_lens.plots.inputs import HasFrame, as_frame
from clvq_lens.plots.text import plain
from clvq_lens.plots.theme import COLOURS, TEXT, ink, themed

_CONDITIONS = {
    "ce_clean": "model as it is",
    "ce_spliced": "target := reconstruction",
    "ce_mean_ablated": "target := its mean",
    "ce_zero_ablated": "target := zero",
}


def plot_cross_entropy(report: pd.DataFrame | HasFrame) -> go.Figure:
    """Cross-entropy of the model as it is, spliced and ablated, with intervals over documents.

    Args:
        report: A `Report`, or its table.
    """
    frame = as_frame(report)
    rows = frame[frame["metric"].isin(list(_CONDITIONS))]
    value, low, high = (
        np.asarray(rows[column], dtype=float) for column in ("value", "low", "high")
    )
    bars = go.Bar(
        x=value,
        y=[_CONDITIONS[metric] for metric in rows["metric"]],
        orientation="h",
        marker={"color": COLOURS[0]},
        text=[f"{number:.3f}" for number in value],
        textposition="inside",
        insidetextanchor="start",
        insidetextfont={"color": ink(COLOURS[0])},
        error_x={
            "type": "data",
            "symmetric": False,
            "color": TEXT,
            "array": high - value,
            "arrayminus": value - low,
        },
        customdata=np.stack([low, high], axis=1),
        hovertemplate="%{y}<br>%{x:.4f} nats per token"
        "<br>95 %: %{customdata[0]:.4f} to %{customdata[1]:.4f}<extra></extra>",
    )
    figure = go.Figure(bars)
    figure.update_xaxes(title_text="cross-entropy in nats per token (95 % interval over documents)")
    figure.update_yaxes(autorange="reversed", title_text="")
    figure = themed(figure, title="What the reconstruction costs the model", height=290)
    return figure.update_layout(margin_t=56)


def plot_recovery(recovery: pd.DataFrame | HasFrame) -> go.Figure:
    """Concept recovery of codes beside k-means, token identity and shuffled labels.

    Args:
        recovery: A `Recovery`, or its table.
    """
    frame = as_frame(recovery)
    figure = go.Figure()
    for index, (tokens, rows) in enumerate(frame.groupby("tokens", sort=False)):
        for metric, pattern in (("nmi", ""), ("purity", "/")):
            figure.add_bar(
                x=[plain(method) for method in rows["method"]],
                y=rows[metric],
                name=f"{'NMI' if metric == 'nmi' else 'purity'}, {plain(str(tokens))} tokens",
                marker={"color": COLOURS[index], "pattern": {"shape": pattern}},
                text=[f"{value:.2f}" for value in rows[metric]],
                textposition="outside",
            )
    figure.update_yaxes(title_text="agreement with the true concepts (0 to 1)", range=[0, 1.1])
    figure.update_xaxes(title_text="assignment of tokens")
    return themed(figure, title="Do codes recover the true concepts?", height=440)
