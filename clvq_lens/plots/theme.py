"""One look for all figures, readable on light and dark pages."""

import plotly.graph_objects as go

GREY = "rgba(128, 128, 128, 0.25)"  # lines and fills that carry no data
TEXT = "#7a7f87"  # contrast of about 4 on white and on black
COLOURS = ("#2f7ed8", "#dc7632", "#37a273", "#b65fcf", "#d64550", "#8a8f98")


def ink(colour: str) -> str:
    """White or black, whichever is easier to read on a colour; a contrast of 4.5 or more.

    Args:
        colour: As ``#rrggbb``.
    """
    return "#ffffff" if luminance(colour) < 0.179 else "#000000"  # where both have 4.58


def luminance(colour: str) -> float:
    """Relative luminance, 0 black to 1 white, as WCAG 2 defines it.

    Args:
        colour: As ``#rrggbb``.
    """
    channels = (int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5))
    linear = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def themed(figure: go.Figure, *, title: str, height: int = 420) -> go.Figure:
    """Gives a figure our fonts, colours and margins, on a transparent background."""
    figure.update_layout(
        title={
            # From the edge of the figure: names beside an axis may take half of a narrow page.
            **{"text": title, "font": {"size": 17}, "x": 0, "xref": "container"},
            **{"y": 1, "yref": "container", "yanchor": "top", "pad": {"l": 16, "t": 14}},
        },
        font={"family": "Inter, Helvetica, Arial, sans-serif", "size": 13, "color": TEXT},
        colorway=COLOURS,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 70, "r": 30, "t": 84, "b": 60},
        height=height,
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": TEXT, "activecolor": COLOURS[0]},
        legend={"orientation": "h", "y": 1.02, "x": 0, "xanchor": "left", "yanchor": "bottom"},
    )
    lines = {"gridcolor": GREY, "zerolinecolor": GREY, "linecolor": GREY}
    axes = {**lines, "automargin": True, "title": {"font": {"size": 14}}}
    figure.update_xaxes(axes)
    figure.update_yaxes(axes)
    return figure
