"""The course of a fit."""

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from clvq_lens.plots.inputs import HasFrame, as_frame
from clvq_lens.plots.theme import COLORS, LINE_PX, themed

# The title of each panel, and its columns with their names in the legend.
_PANELS = {
    "FVU": {"fvu": "training (sampled codes)", "held_out_fvu": "held out (nearest codes)"},
    "codes": {"perplexity": "perplexity", "n_dead_codes": "dead codes"},
    "KL in nats per token": {"kl": "KL, training", "held_out_kl": "KL, held out"},
}


def plot_history(history: pd.DataFrame | HasFrame) -> go.Figure:
    """FVU, codes in use and, if it was trained on, KL over the tokens seen.

    Args:
        history: A `History`, or its table.
    """
    frame = as_frame(history)
    panels = dict(_PANELS)
    if bool(frame["kl"].isna().all()):
        del panels["KL in nats per token"]
    figure = make_subplots(rows=len(panels), cols=1, shared_xaxes=True, vertical_spacing=0.08)
    colors = iter(COLORS)  # a line keeps its color where another one is not drawn
    for row, (title, columns) in enumerate(panels.items(), start=1):
        for column, name in columns.items():
            color = next(colors)
            if bool(frame[column].isna().all()):
                continue
            figure.add_scatter(
                x=frame["n_tokens"],
                y=frame[column],
                name=name,
                mode="lines+markers",
                line={"color": color, "width": LINE_PX},
                cliponaxis=False,  # marks at zero are whole
                row=row,
                col=1,
            )
        figure.update_yaxes(title_text=title, rangemode="tozero", row=row, col=1)
    figure.update_xaxes(title_text="training tokens", row=len(panels), col=1)
    return themed(figure, title="Training history", height=120 + 210 * len(panels))
