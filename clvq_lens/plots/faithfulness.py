"""What the removal of concepts does to predictions, beside its controls."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from clvq_lens.errors import DataError
from clvq_lens.plots.inputs import HasFrame, as_frame
from clvq_lens.plots.text import plain
from clvq_lens.plots.theme import COLOURS, themed

_TITLES = {
    ("probe", "raw"): "probe: raw code vector projected out",
    ("probe", "centred"): "probe: centred code vector projected out",
    ("model", "raw"): "in the model: raw code vector projected out",
    ("model", "centred"): "in the model: centred code vector projected out",
    ("model", "code"): "in the model: code replaced by the mean code",
}


def plot_faithfulness(
    conditions: pd.DataFrame | HasFrame, *, protocol: str = "honest"
) -> go.Figure:
    """How far the probability of the label falls when a concept or a control is removed.

    One panel for each place and ablation; the concept in colour, controls in grey, 95 % intervals
    over documents. An effect is specific where the concept is clear of every control.

    Args:
        conditions: A `Faithfulness`, or its table.
        protocol: Its name, for the title.

    Raises:
        DataError: If nothing was removed in any row.
    """
    frame = as_frame(conditions)
    panels = [
        (title, rows)
        for (place, ablation), title in _TITLES.items()
        if len(rows := frame.query("place == @place and ablation == @ablation"))
    ]
    if not panels:
        raise DataError("No row tells of a removal. Pass the result of lens.faithfulness(...).")
    heights = [len(rows) + 1 for _, rows in panels]
    figure = make_subplots(
        rows=len(panels),
        cols=1,
        shared_xaxes=True,
        row_heights=heights,
        vertical_spacing=1.3 / (sum(heights) + 1.3 * len(panels)),
        subplot_titles=[title for title, _ in panels],
    )
    for number, (_, rows) in enumerate(panels, start=1):
        figure.add_trace(_points(rows), row=number, col=1)
    figure.update_yaxes(autorange="reversed", title_text="")
    figure.update_xaxes(zeroline=True, zerolinewidth=2)
    figure.update_xaxes(
        title_text="fall of the label's probability (95 % interval over documents)",
        row=len(panels),
    )
    figure.update_annotations(x=0, xanchor="left", font={"size": 14})
    height = 130 + 27 * sum(heights) + 30 * len(panels)
    title = f"What removing concepts does to predictions ({plain(protocol)} protocol)"
    return themed(figure, title=title, height=height).update_layout(showlegend=False)


def _points(rows: pd.DataFrame) -> go.Scatter:
    value, low, high, accuracy = (
        rows[column].to_numpy(dtype=float)
        for column in ("drop", "drop_low", "drop_high", "accuracy")
    )
    is_concept = rows["condition"] == "concept"
    colours = [COLOURS[0] if mine else COLOURS[5] for mine in is_concept]
    return go.Scatter(
        x=value,
        y=[plain(condition) for condition in rows["condition"]],
        mode="markers",
        marker={"color": colours, "size": 10},
        error_x={
            **{"type": "data", "symmetric": False, "color": COLOURS[5], "thickness": 1.5},
            **{"array": high - value, "arrayminus": value - low},
        },
        customdata=np.stack([low, high, accuracy], axis=1),
        hovertemplate="%{y}: %{x:.3f} [%{customdata[0]:.3f}, %{customdata[1]:.3f}]"
        "<br>accuracy %{customdata[2]:.3f}<extra></extra>",
    )
