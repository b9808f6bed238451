"""How long activations are."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from clvq_lens.plots.inputs import HasFrame, as_frame, numbers
from clvq_lens.plots.text import plain
from clvq_lens.plots.theme import COLORS, log_ticks, themed


def plot_norms(norms: pd.DataFrame | HasFrame) -> go.Figure:
    """Histograms of norms on logarithmic axes; tokens beyond the dashed lines are left out.

    Args:
        norms: A `Norms`, or its table.
    """
    frame = as_frame(norms)
    figure = go.Figure()
    for index, (point, rows) in enumerate(frame.groupby("point", sort=False)):
        low, high = numbers(rows, "low"), numbers(rows, "high")
        counts = numbers(rows, "n_tokens")
        figure.add_scatter(
            x=np.sqrt(low * high),  # the middle of a bin on a logarithmic axis
            # An empty bin has no place on that axis, and the line must not leap over it.
            y=np.where(counts > 0, counts, np.nan),
            name=plain(f"at the {point}"),
            mode="lines+markers",
            line={"color": COLORS[index], "shape": "hvh"},
            customdata=np.stack([low, high], axis=1),
            hovertemplate="%{y:,} tokens with norms of %{customdata[0]:.4g} to "
            "%{customdata[1]:.4g}",
        )
        limit = float(rows["limit"].iloc[0])
        if np.isfinite(limit):
            figure.add_vline(x=limit, line={"color": COLORS[index], "dash": "dash"})
    n_tokens = numbers(frame, "n_tokens")
    title = "norm of the activation"
    if np.isfinite(numbers(frame, "limit")).any():
        title += " (left out beyond the dashed line)"
    figure.update_xaxes(
        type="log",
        title_text=title,
        dtick=log_ticks(np.append(numbers(frame, "low"), numbers(frame, "high"))),
        tickformat=",~g",
    )
    figure.update_yaxes(
        type="log",
        title_text="tokens",
        rangemode="tozero",
        dtick=log_ticks(n_tokens[n_tokens > 0]),
        tickformat=",",
    )
    return themed(figure, title="How long activations are", height=320)
