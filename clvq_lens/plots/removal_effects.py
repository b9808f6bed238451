"""What the removal of concepts does to predictions, beside its controls."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from clvq_lens.errors import DataError
from clvq_lens.plots.inputs import HasFrame, as_frame, intervals_shown, numbers, whiskers
from clvq_lens.plots.text import plain, wrapped
from clvq_lens.plots.theme import BLUE, GRAY, SMALL_FONT_PX, themed

# How places and ablations read in a title; others stand there as the table has them.
_PLACES = {"model": "in the model"}
_ABLATIONS = {
    "raw": "raw code vector projected out",
    "centered": "centered code vector projected out",
    "code": "code replaced by the mean code",
}
_ROW_PX = 27
_TITLE_PX = 30  # height of the title of a panel, if it is one line
_LINE_PX = 17  # of each further line
_TITLE_WIDTH = 36  # characters: so many fit beside the names on a page of 400 pixels
_BETWEEN_ROWS = 1.3  # between panels, in rows
_TOP_PX = 84  # above the first panel, and its title of one line


def plot_faithfulness(
    conditions: pd.DataFrame | HasFrame,
    *,
    protocol: str = "honest",
    concept: str = "concept",
    findings: Mapping[tuple[str, str], str] | None = None,
) -> go.Figure:
    """How far the probability of the class falls when a concept or a control is removed.

    One panel for each place and ablation; the concept in color, controls in gray, 95 % intervals
    over documents and codes. Whether an effect is specific cannot be seen from these intervals:
    verdicts compare the concept with its controls text by text, and stand in the titles.

    Args:
        conditions: A `Faithfulness`, or its table.
        protocol: Name of the protocol, for the title.
        concept: Name of the condition in which the concept is removed; all others are controls.
        findings: The verdict on each place and ablation, in words; None: titles without verdicts.

    Raises:
        DataError: If nothing was removed in any row.
    """
    frame = as_frame(conditions)
    removals = frame.loc[frame["ablation"] != ""]  # where nothing was removed, nothing fell
    if not len(removals):
        raise DataError(
            "The table has no row in which something was removed. Pass the result of "
            "lens.faithfulness(...)."
        )
    titles: list[str] = []
    panels: list[pd.DataFrame] = []
    for _, rows in removals.groupby(["place", "ablation"], sort=False):
        place, ablation = str(rows["place"].iloc[0]), str(rows["ablation"].iloc[0])
        titles.append(_title(place, ablation, findings or {}))
        panels.append(pd.DataFrame(rows))
    heights = [len(rows) + 1 for rows in panels]
    more_px = _LINE_PX * max(title.count("<br>") for title in titles)
    between = _BETWEEN_ROWS + more_px / _ROW_PX
    figure = make_subplots(
        rows=len(panels),
        cols=1,
        shared_xaxes=True,
        row_heights=heights,
        vertical_spacing=between / (sum(heights) + between * len(panels)),
        subplot_titles=titles,
    )
    for number, rows in enumerate(panels, start=1):
        figure.add_trace(_points(rows, concept), row=number, col=1)
        # From one row above the first to one below the last: rows are as far apart in all panels.
        figure.update_yaxes(range=[len(rows), -1], row=number)
    figure.update_yaxes(title_text="")
    figure.update_xaxes(zeroline=True, zerolinewidth=2)
    figure.update_xaxes(
        title_text="fall of the class's probability<br>(95 % interval over documents and codes)",
        row=len(panels),
    )
    figure.update_annotations(x=0, xanchor="left", font={"size": SMALL_FONT_PX}, align="left")
    height = 130 + more_px + _ROW_PX * sum(heights) + (_TITLE_PX + more_px) * len(panels)
    title = f"What removing concepts does ({plain(protocol)} protocol)"
    figure = themed(figure, title=title, height=height)
    return figure.update_layout(showlegend=False, margin_t=_TOP_PX + more_px)


def _title(place: str, ablation: str, findings: Mapping[tuple[str, str], str]) -> str:
    """What was removed where, and the verdict if it is known."""
    title = f"{_PLACES.get(place, place)}: {_ABLATIONS.get(ablation, ablation)}"
    if (place, ablation) in findings:
        title += f" ({findings[place, ablation]})"
    return wrapped(title, _TITLE_WIDTH)


def _points(rows: pd.DataFrame, concept: str) -> go.Scatter:
    drop = numbers(rows, "drop")
    low, high = numbers(rows, "drop_low"), numbers(rows, "drop_high")
    is_concept = rows["condition"] == concept
    return go.Scatter(
        x=drop,
        y=rows["condition"].map(plain).tolist(),
        mode="markers",
        marker={"color": np.where(is_concept, BLUE, GRAY).tolist(), "size": 10},
        error_x={"type": "data", "color": GRAY, "thickness": 1.5, **whiskers(drop, low, high)},
        customdata=list(
            zip(intervals_shown(drop, low, high), numbers(rows, "accuracy"), strict=True)
        ),
        hovertemplate="%{y}: %{customdata[0]}<br>accuracy %{customdata[1]:.3f}<extra></extra>",
    )
