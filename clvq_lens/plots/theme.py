"""One look for all figures, readable on light and dark pages."""

import plotly.graph_objects as go

_GREY = "rgba(128, 128, 128, 0.25)"
_TEXT = "#7a7f87"  # contrast of about 4 on white and on black
COLOURS = ("#2f7ed8", "#e07b39", "#3aa876", "#b65fcf", "#d64550", "#8a8f98")


def themed(figure: go.Figure, *, title: str, height: int = 420) -> go.Figure:
    """Gives a figure our fonts, colours and margins, on a transparent background."""
    figure.update_layout(
        title={"text": title, "x": 0, "xref": "paper", "font": {"size": 16}},
        font={"family": "Inter, Helvetica, Arial, sans-serif", "size": 13, "color": _TEXT},
        colorway=COLOURS,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 70, "r": 30, "t": 70, "b": 60},
        height=height,
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": _TEXT, "activecolor": COLOURS[0]},
        legend={"orientation": "h", "y": 1.02, "x": 1, "xanchor": "right", "yanchor": "bottom"},
    )
    figure.update_xaxes(gridcolor=_GREY, zerolinecolor=_GREY, linecolor=_GREY, automargin=True)
    figure.update_yaxes(gridcolor=_GREY, zerolinecolor=_GREY, linecolor=_GREY, automargin=True)
    return figure
