"""One look for all figures, readable on light and dark pages."""

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Shaped

BLUE = "#2f7ed8"
ORANGE = "#dc7632"
GREEN = "#37a273"
PURPLE = "#b65fcf"
RED = "#d64550"
GRAY = "#8a8f98"  # controls and references, which step back behind what is measured
COLORS = (BLUE, ORANGE, GREEN, PURPLE, RED, GRAY)

TEXT = "#7a7f87"  # contrast of about 4 on white and on black
FAINT = "rgba(128, 128, 128, 0.25)"  # lines and fills that carry no data
CLEAR = "rgba(0,0,0,0)"  # the page shows through
RAISES, LOWERS = RED, BLUE  # effects above and below zero; letters in both are readable

# Sizes in pixels.
TITLE_PX = 17
AXIS_TITLE_PX = 14
FONT_PX = 13
SMALL_FONT_PX = 12
DOT_PX = 6  # a mark where there are many
MARK_PX = 9  # a mark where there are few
LINE_PX = 2
_LEGEND_TOP_PX = 44  # from the top of a figure, below its title

NAME_WIDTH = 24  # characters of a name beside an axis

# A control is a tick across the axis of its value, so that it never covers the value itself.
CONTROL_MARK: Mapping[str, object] = {
    "color": ORANGE,
    "symbol": "line-ns-open",
    "size": 12,
    "line": {"width": 3},
}
REFERENCE_LINE: Mapping[str, object] = {"color": GRAY, "dash": "dot"}


def ink(color: str) -> str:
    """White or black, whichever is easier to read on a color; the contrast is 4.5 or more.

    Args:
        color: As ``#rrggbb``.
    """
    # At this luminance white and black both have a contrast of 4.58.
    return "#ffffff" if luminance(color) < 0.179 else "#000000"


def luminance(color: str) -> float:
    """Relative luminance, 0 black to 1 white, as WCAG 2 defines it.

    Args:
        color: As ``#rrggbb``.
    """
    total = 0.0
    for weight, channel in zip((0.2126, 0.7152, 0.0722), channels(color), strict=True):
        value = channel / 255
        linear = value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        total += weight * linear
    return total


def channels(color: str) -> tuple[int, int, int]:
    """Red, green and blue of a color, each from 0 to 255.

    Args:
        color: As ``#rrggbb``.
    """
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


def translucent(color: str, opacity: float) -> str:
    """A color through which the page shows.

    Args:
        color: As ``#rrggbb``.
        opacity: From 0 to 1.
    """
    red, green, blue = channels(color)
    return f"rgba({red}, {green}, {blue}, {opacity})"


def log_ticks(values: Shaped[np.ndarray, " n"]) -> str | int:
    """The ``dtick`` of a logarithmic axis on which ticks do not crowd.

    Args:
        values: What is on the axis, all above zero.

    Returns:
        "D2", which is a tick at 1, 2 and 5 of every power of ten, or 1 for powers of ten alone.
    """
    is_wide = len(values) and values.max() > 500 * values.min()
    return 1 if is_wide else "D2"


def themed(figure: go.Figure, *, title: str, height: int = 420) -> go.Figure:
    """Gives a figure our fonts, colors and margins, on a transparent background.

    Args:
        figure: The figure, which is changed.
        title: The title, already escaped.
        height: Height in pixels.
    """
    figure.update_layout(
        title={
            "text": title,
            "font": {"size": TITLE_PX},
            # From the edge of the figure: names beside an axis may take half of a narrow page.
            "x": 0,
            "xref": "container",
            "y": 1,
            "yref": "container",
            "yanchor": "top",
            "pad": {"l": 16, "t": 14},
        },
        font={"family": "Inter, Helvetica, Arial, sans-serif", "size": FONT_PX, "color": TEXT},
        colorway=COLORS,
        paper_bgcolor=CLEAR,
        plot_bgcolor=CLEAR,
        margin={"l": 70, "r": 30, "t": 84, "b": 60},
        height=height,
        modebar={"bgcolor": CLEAR, "color": TEXT, "activecolor": BLUE},
        legend=_legend(height),
    )
    axes = {
        "gridcolor": FAINT,
        "zerolinecolor": FAINT,
        "linecolor": FAINT,
        "automargin": True,  # long names beside an axis would leave the page
        "title": {"font": {"size": AXIS_TITLE_PX}},
    }
    # By itself plotly draws a light edge around bars, which glares on a dark page.
    figure.update_traces(marker_line_width=0, selector={"type": "bar"})
    figure.update_xaxes(axes)
    figure.update_yaxes(axes)
    return figure


def _legend(height: int) -> dict[str, object]:
    """A row below the title and not above the plot.

    On a narrow page it takes several rows, and plotly then moves the plot down.
    """
    return {
        "orientation": "h",
        "x": 0,
        "xanchor": "left",
        "y": 1 - _LEGEND_TOP_PX / height,
        "yref": "container",
        "yanchor": "top",
    }
