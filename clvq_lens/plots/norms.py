"""How long activations are."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from clvq_lens.plots.inputs import HasFrame, as_frame
from clvq_lens.plots.theme import COLOURS, themed


def plot_norms(norms: pd.DataFrame | HasFrame) -> go.Figure:
    """Histograms of norms on logarithmic axes; tokens beyond the dashed lines are left out.

    Args:
        norms: A `Norms`, or its table.
    """
    frame = as_frame(norms)
    figure = go.Figure()
    for index, (point, rows) in enumerate(frame.groupby("point", sort=False)):
        low, high = rows["low"].to_numpy(dtype=float), rows["high"].to_numpy(dtype=float)
        counts = rows["n_tokens"].to_numpy()
        # An empty bin has no place on a logarithmic axis, and the line must not leap over it.
        figure.add_scatter(
            x=np.sqrt(low * high),
            y=np.where(counts > 0, counts.astype(float), np.nan),
            name=f"at the {point}",
            mode="lines+markers",
            line={"color": COLOURS[index], "shape": "hvh"},
            customdata=np.stack([low, high], axis=1),
            hovertemplate="%{y:,} tokens with norms of %{customdata[0]:.4g} to "
            "%{customdata[1]:.4g}",
        )
        limit = float(rows["limit"].iloc[0])
        if np.isfinite(limit):
            figure.add_vline(x=limit, line={"color": COLOURS[index], "dash": "dash"})
    figure.update_xaxes(type="log", title_text="norm of the activation")
    figure.update_yaxes(type="log", title_text="tokens", rangemode="tozero")
    return themed(figure, title="How long activations are", height=320)
