"""How well names tell the tokens of a concept from others."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from clvq_lens.plots.inputs import HasFrame, as_frame
from clvq_lens.plots.text import plain
from clvq_lens.plots.theme import COLOURS, themed


def plot_detection(detection: pd.DataFrame | HasFrame) -> go.Figure:
    """Accuracy of every code, the best first, beside another code's name and chance.

    Args:
        detection: A `Detection`, or its frame.
    """
    frame = as_frame(detection)
    rank = np.arange(1, len(frame) + 1)
    names = [
        f"code {code}: {plain(label)}"
        for code, label in zip(frame["code"], frame["label"], strict=True)
    ]
    figure = go.Figure()
    for column, name, colour in (
        ("control", "name of another code", COLOURS[5]),
        ("accuracy", "own name", COLOURS[0]),
    ):
        figure.add_scatter(
            x=rank,
            y=frame[column],
            text=names,
            mode="markers",
            name=name,
            marker={"color": colour, "size": 7},
            hovertemplate="%{text}<br>accuracy %{y:.2f}<extra></extra>",
        )
    figure.add_hline(y=0.5, line={"color": COLOURS[5], "dash": "dot"}, annotation_text="chance")
    figure.update_xaxes(title_text="rank of the code by accuracy")
    figure.update_yaxes(title_text="contexts judged rightly (fraction)", range=[-0.03, 1.03])
    return themed(figure, title="Can its name tell a concept from others?")
