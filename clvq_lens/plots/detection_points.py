"""How well names tell the tokens of a concept from others."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from clvq_lens.plots.inputs import HasFrame, as_frame
from clvq_lens.plots.text import plain
from clvq_lens.plots.theme import BLUE, GRAY, REFERENCE_LINE, themed

_POINT_PX = 7


def plot_detection(detection: pd.DataFrame | HasFrame) -> go.Figure:
    """Accuracy of every code, the best first, beside another code's name and chance.

    Args:
        detection: A `Detection`, or its table.
    """
    frame = as_frame(detection)
    names: list[str] = []
    for code, name in zip(frame["code"], frame["name"], strict=True):
        names.append(f"code {code}: {plain(name)}")
    figure = go.Figure()
    # The control comes first, so that it never covers a name's own accuracy.
    for column, series, color in (
        ("control", "name of another code", GRAY),
        ("accuracy", "own name", BLUE),
    ):
        figure.add_scatter(
            x=np.arange(1, len(frame) + 1),
            y=frame[column],
            text=names,
            mode="markers",
            name=series,
            marker={"color": color, "size": _POINT_PX},
            hovertemplate="%{text}<br>accuracy %{y:.2f}<extra></extra>",
        )
    # As many contexts belong to a code as do not, so a coin is right half of the time. It is named
    # in the legend: points at chance would cover a name on the line.
    figure.add_hline(y=0.5, line=REFERENCE_LINE, name="chance", showlegend=True, legendrank=1)
    figure.update_xaxes(title_text="rank of the code by accuracy")
    figure.update_yaxes(title_text="contexts judged rightly (fraction)", range=[-0.03, 1.03])
    figure = themed(figure, title="Can its name tell a concept from others?")
    return figure.update_layout(legend_traceorder="reversed")  # what was measured comes first
