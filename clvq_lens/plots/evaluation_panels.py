"""An evaluation in pictures."""

import pandas as pd
import plotly.graph_objects as go

from clvq_lens.plots.inputs import HasFrame, as_frame, intervals_shown, numbers, whiskers
from clvq_lens.plots.text import plain
from clvq_lens.plots.theme import BLUE, COLORS, TEXT, ink, themed
from clvq_lens.showing import told_apart

# What is called otherwise than in the table.
_TITLES = {
    "ce_clean": "model as it is",
    "ce_spliced": "target := reconstruction",
    "ce_mean_ablated": "target := its mean",
    "ce_zero_ablated": "target := zero",
}


def plot_cross_entropy(evaluation: pd.DataFrame | HasFrame) -> go.Figure:
    """Cross-entropy of the model as it is, spliced and ablated, with intervals over documents.

    Args:
        evaluation: An `Evaluation`, or its table; every metric ``ce_...`` in nats per token is
            drawn.
    """
    frame = as_frame(evaluation)
    metrics = frame["metric"]
    # CE loss recovered is a fraction, which has no place on an axis in nats.
    is_entropy = metrics.str.startswith("ce_") & ~metrics.str.startswith("ce_loss_recovered")
    rows = frame.loc[is_entropy]
    value, low, high = numbers(rows, "value"), numbers(rows, "low"), numbers(rows, "high")
    bars = go.Bar(
        x=value,
        y=[_TITLES.get(metric, plain(metric)) for metric in rows["metric"]],
        orientation="h",
        marker={"color": BLUE},
        text=[told_apart(number)[0] for number in value],
        textposition="inside",
        insidetextanchor="start",  # at the other end stands the interval
        insidetextfont={"color": ink(BLUE)},
        error_x={"type": "data", "color": TEXT, **whiskers(value, low, high)},
        customdata=intervals_shown(value, low, high),
        hovertemplate="%{y}<br>%{customdata} nats per token<extra></extra>",
    )
    figure = go.Figure(bars)
    figure.update_xaxes(
        title_text="cross-entropy in nats per token<br>(95 % interval over documents)"
    )
    figure.update_yaxes(autorange="reversed", title_text="")
    figure = themed(figure, title="What the reconstruction costs the model", height=290)
    return figure.update_layout(margin_t=56)  # one series has no legend


def plot_recovery(recovery: pd.DataFrame | HasFrame) -> go.Figure:
    """Concept recovery of codes beside that of every other assignment in the table.

    Args:
        recovery: A `Recovery`, or its table.
    """
    frame = as_frame(recovery)
    figure = go.Figure()
    for index, (tokens, rows) in enumerate(frame.groupby("tokens", sort=False)):
        methods = rows["method"].map(plain).tolist()
        # Color tells sets of tokens apart, hatching the two measures on the same set.
        for column, measure, pattern in (("nmi", "NMI", ""), ("purity", "purity", "/")):
            figure.add_bar(
                x=methods,
                y=rows[column],
                name=f"{measure}, {plain(str(tokens))} tokens",
                marker={"color": COLORS[index], "pattern": {"shape": pattern}},
                text=rows[column].map("{:.2f}".format).tolist(),
                textposition="outside",
            )
    figure.update_yaxes(title_text="agreement with the true concepts (0 to 1)", range=[0, 1.1])
    figure.update_xaxes(title_text="assignment of tokens")
    return themed(figure, title="Do codes recover the true concepts?", height=440)
