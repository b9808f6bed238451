"""Agreement of judges on which codes are well named."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from clvq_lens.plots.inputs import HasFrame, as_frame, numbers, whiskers
from clvq_lens.plots.text import plain
from clvq_lens.plots.theme import BLUE, CONTROL_MARK, LINE_PX, MARK_PX, themed
from clvq_lens.showing import told_apart

_LABEL_UP_PX = 17  # above the mark of the null, which may be in the same place
_NULL_LINE = "rgba(220, 118, 50, 0.6)"  # the color of controls, which step back


def plot_concordance(agreement: pd.DataFrame | HasFrame) -> go.Figure:
    """Kendall's W with own names and with those of other codes, each beside its null.

    Args:
        agreement: A `clvq_lens.judges.JudgeAgreement`, or its table.
    """
    frame = as_frame(agreement)
    names = list(map(plain, frame["names"]))
    null_mean = numbers(frame, "null_mean")
    null_ends = whiskers(null_mean, numbers(frame, "null_low"), numbers(frame, "null_high"))
    w = numbers(frame, "kendall_w")
    figure = go.Figure()
    figure.add_scatter(
        x=null_mean,
        y=names,
        error_x={**null_ends, "color": _NULL_LINE, "thickness": LINE_PX},
        mode="markers",
        name="scores shuffled: mean and 95 %",
        marker=CONTROL_MARK,
        hovertemplate="shuffled %{x:.3g}<extra></extra>",
    )
    figure.add_scatter(
        x=w,
        y=names,
        customdata=[told_apart(p)[0] for p in frame["p"]],
        mode="markers",
        name="Kendall's W",
        marker={"color": BLUE, "size": MARK_PX},
        hovertemplate="W %{x:.3g}, p %{customdata}<extra></extra>",
    )
    for name, value in zip(names, w, strict=True):
        is_number = np.isfinite(value)
        figure.add_annotation(
            x=value if is_number else 0.5,
            y=name,
            text=told_apart(value)[0] if is_number else "no judge tells codes apart",
            yshift=_LABEL_UP_PX,
            showarrow=False,
        )
    figure.update_xaxes(title_text="Kendall's W: 1 the same order of codes", range=[-0.06, 1.06])
    figure.update_yaxes(title_text="names", range=[1.6, -0.7])
    figure = themed(figure, title="Do judges find the same codes well named?", height=304)
    return figure.update_layout(legend_traceorder="reversed")  # what was measured comes first
