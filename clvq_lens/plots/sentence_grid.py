"""The concepts of one text, token by token and quantizer by quantizer."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float

from clvq_lens.plots.colors import color_of
from clvq_lens.plots.inputs import HasFrame, as_frame, numbers
from clvq_lens.plots.running_text import (
    WIDTH,
    Placed,
    add_bars,
    count_lines,
    lay_out,
    longest_line,
    shown,
    written,
)
from clvq_lens.plots.text import code_name, plain, shortened, visible, wrapped
from clvq_lens.plots.theme import LOWERS, RAISES, TEXT, ink, themed, translucent

# Heights in pixels, which are the units of the y axis.
_TOKEN, _CELL, _EFFECT = 24, 38, 34
_SPACE = 5  # between lanes
_BETWEEN_LINES = 16
_LEGEND = 64
_LEAST = 6  # characters that a token takes, so that a code and a word of its name fit
_GAP = 0.2  # characters between a cell and the next
_CELL_FONT_PX = 14
_NAME_WIDTH = 12  # characters of a quantizer's name beside its lane
_LEGEND_WIDTH = 40  # characters
_BAR_OPACITY = 0.5  # of effects: lines of controls are as light as full colors, and cross them


class _Lane(NamedTuple):
    """One quantizer: where its cells and effects stand below the top of a line, in pixels."""

    quantizer: str
    rows: pd.DataFrame
    cell: int
    effect: int


class _Page(NamedTuple):
    """The text in lines: where each token stands, and where each line begins, in pixels."""

    tokens: Sequence[str]
    placed: Sequence[Placed]
    tops: Sequence[int]


def plot_sentence(
    sentence: pd.DataFrame | HasFrame,
    *,
    metric: str = "",
    colors: Mapping[str, Sequence[str]] | None = None,
    width: int = WIDTH,
) -> go.Figure:
    """The text in lines, and below each token its code at every quantizer, the last one on top.

    Where effects were measured, a bar below each cell shows that of ablating its code there, and a
    short line the mean effect of ablating other codes at the nearest positions.

    Args:
        sentence: From `sentence_flow`, or its ``.frame(names)``.
        metric: Name of the metric that effects change, if there are any.
        colors: Colors of the codes of each quantizer by its name, from `code_colors`.
        width: Characters in a line: about 40 for a narrow page.

    Raises:
        ConfigError: If ``width`` is below 1.
    """
    frame = as_frame(sentence)
    has_effects = "effect" in frame and bool(np.isfinite(frame["effect"]).any())
    quantizers = frame["quantizer"].drop_duplicates().tolist()
    lanes, line_height = _lanes(frame, quantizers[::-1], has_effects)
    page = _page(
        frame.loc[frame["quantizer"] == quantizers[0], "token"].tolist(), width, line_height
    )
    figure = go.Figure()
    _write_tokens(figure, page)
    for lane in lanes:
        _draw_cells(figure, lane, page, metric, (colors or {}).get(lane.quantizer))
    if has_effects:
        _draw_effects(figure, lanes, page, metric)
    height = page.tops[-1] + line_height
    figure.update_xaxes(range=[0, longest_line(page.placed, width)], visible=False, fixedrange=True)
    figure.update_yaxes(range=[height, 0], fixedrange=True)
    _name_lanes(figure, lanes, page)
    legend = _LEGEND if has_effects else 0
    figure = themed(figure, title="Concepts of one text", height=72 + height + legend)
    figure.update_yaxes(showgrid=False, zeroline=False, showline=False)
    return figure.update_layout(
        barmode="overlay",
        margin={"l": 40, "r": 16, "t": 52, "b": 20 + legend},
        legend={"y": 0, "yref": "paper", "traceorder": "normal"},  # below the text
        hoverlabel={"align": "left"},
    )


def _lanes(
    frame: pd.DataFrame, quantizers: Sequence[str], has_effects: bool
) -> tuple[list[_Lane], int]:
    """The quantizers from the top, below the tokens, and the height of a line."""
    lanes: list[_Lane] = []
    top = _TOKEN
    for quantizer in quantizers:
        effect = top + _CELL + _SPACE
        lanes.append(_Lane(quantizer, frame.loc[frame["quantizer"] == quantizer], top, effect))
        top = effect
        if has_effects:
            top += _EFFECT + _SPACE
    return lanes, top


def _page(tokens: Sequence[str], width: int, line_height: int) -> _Page:
    placed = lay_out(tokens, width, least=min(width, _LEAST))
    tops = [line * (line_height + _BETWEEN_LINES) for line in range(count_lines(placed))]
    return _Page(tokens, placed, tops)


def _name_lanes(figure: go.Figure, lanes: Sequence[_Lane], page: _Page) -> None:
    """Writes the name of each quantizer beside its lane, in every line."""
    ticks: list[float] = []
    names: list[str] = []
    for top in page.tops:
        for lane in lanes:
            ticks.append(top + lane.cell + _CELL / 2)
            names.append(plain(shortened(lane.quantizer, _NAME_WIDTH)))
    figure.update_yaxes(tickvals=ticks, ticktext=names, ticks="")


def _write_tokens(figure: go.Figure, page: _Page) -> None:
    middles: list[float] = []
    texts: list[str] = []
    for place in page.placed:
        middles.append(page.tops[place.line] + _TOKEN / 2)
        texts.append(shown(page.tokens[place.index], place.width))
    add_bars(
        figure,
        page.placed,
        middles,
        _GAP,
        width=_TOKEN,
        marker={"opacity": 0},
        text=texts,
        showlegend=False,
        hoverinfo="skip",
        **written(_CELL_FONT_PX, TEXT),
    )


def _draw_cells(
    figure: go.Figure, lane: _Lane, page: _Page, metric: str, colors: Sequence[str] | None
) -> None:
    """Draws one cell for each token that has a code, with its number and a word of its name."""
    codes = lane.rows["code"].tolist()
    names = lane.rows["name"].tolist() if "name" in lane.rows else [""] * len(codes)
    all_hovers = _hovers(lane, names, metric)
    places: list[Placed] = []
    middles: list[float] = []
    cell_colors: list[str] = []
    inks: list[str] = []
    texts: list[str] = []
    hovers: list[str] = []
    for place in page.placed:
        code = codes[place.index]
        if code < 0:  # a special token has no cell
            continue
        color = color_of(code, colors)
        places.append(place)
        middles.append(page.tops[place.line] + lane.cell + _CELL / 2)
        cell_colors.append(color)
        inks.append(ink(color))
        texts.append(_cell(code, names[place.index], place.width))
        hovers.append(all_hovers[place.index])
    add_bars(
        figure,
        places,
        middles,
        _GAP,
        width=_CELL,
        name=lane.quantizer,
        showlegend=False,
        marker={"color": cell_colors, "line": {"width": 0}},
        text=texts,
        hovertext=hovers,
        hovertemplate="%{hovertext}<extra></extra>",
        **written(_CELL_FONT_PX, inks),
    )


def _draw_effects(figure: go.Figure, lanes: Sequence[_Lane], page: _Page, metric: str) -> None:
    """Draws bars above and below a zero line; above it alone where no effect is negative."""
    effects = np.stack([numbers(lane.rows, "effect") for lane in lanes])
    controls = np.stack([numbers(lane.rows, "control") for lane in lanes])
    # One scale for all lanes, so that bars can be compared between quantizers.
    largest = float(np.nanmax(np.abs([effects, controls]))) or 1.0
    is_signed = bool((effects < 0).any() or (controls < 0).any())
    zero = _EFFECT / (2 if is_signed else 1)  # below the top of the effects of a lane
    unit = zero / largest  # pixels
    zeros = [lane.effect + zero for lane in lanes]
    raised = wrapped(f"raised by ablating it: {metric}", _LEGEND_WIDTH)
    lowered = wrapped(f"lowered by ablating it: {metric}", _LEGEND_WIDTH)
    _draw_sign(figure, page, zeros, effects * unit, 1, raised, RAISES)
    _draw_sign(figure, page, zeros, effects * unit, -1, lowered, LOWERS)
    control = wrapped(f"by ablating other codes near it (full height {largest:.3g})", _LEGEND_WIDTH)
    _draw_controls(figure, page, zeros, controls * unit, control)


def _draw_sign(
    figure: go.Figure,
    page: _Page,
    zeros: Sequence[float],
    heights: Float[np.ndarray, "quantizer pos"],
    sign: int,
    name: str,
    color: str,
) -> None:
    """Draws the effects of one sign, as bars from the zero line of each lane."""
    places: list[Placed] = []
    middles: list[float] = []
    lengths: list[float] = []
    for zero, lane_heights in zip(zeros, heights, strict=True):
        for place in page.placed:
            height = lane_heights[place.index]
            if sign * height > 0:  # no effect was measured at a special token: NaN
                places.append(place)
                middles.append(page.tops[place.line] + zero - height / 2)
                lengths.append(abs(height))
    if not places:
        return
    add_bars(
        figure,
        places,
        middles,
        _GAP,
        width=lengths,
        marker={"color": translucent(color, _BAR_OPACITY)},
        name=name,
        showlegend=True,
        hoverinfo="skip",
    )


def _draw_controls(
    figure: go.Figure,
    page: _Page,
    zeros: Sequence[float],
    heights: Float[np.ndarray, "quantizer pos"],
    name: str,
) -> None:
    """Draws the effect of other codes as a short line across the bar of each token."""
    x: list[float | None] = []
    y: list[float | None] = []
    for zero, lane_heights in zip(zeros, heights, strict=True):
        for place in page.placed:
            if np.isfinite(lane_heights[place.index]):
                level = page.tops[place.line] + zero - lane_heights[place.index]
                # None lifts the pen: one trace draws all lines.
                x += [place.start, place.start + place.width - _GAP, None]
                y += [level, level, None]
    figure.add_scatter(
        x=x,
        y=y,
        mode="lines",
        line={"color": TEXT, "width": 1.5},
        name=name,
        hoverinfo="skip",
    )


def _cell(code: int, name: str, n_characters: int) -> str:
    """A code, and below it the first word of its name."""
    words = name.split()
    # A name of white space alone has no word: its characters are shown.
    word = plain(shortened(words[0], n_characters)) if words else visible(name)
    return f"{code}<br>{word}" if word else str(code)


def _hovers(lane: _Lane, names: Sequence[str], metric: str) -> list[str]:
    absent = np.full(len(lane.rows), np.nan)
    effects = numbers(lane.rows, "effect") if "effect" in lane.rows else absent
    controls = numbers(lane.rows, "control") if "control" in lane.rows else absent
    hovers: list[str] = []
    columns = lane.rows[["code", "position", "token"]].itertuples(index=False)
    for index, (code, position, token) in enumerate(columns):
        hover = f"<b>{plain(lane.quantizer)}: code {code_name(code, names[index])}</b>"
        hover += f"<br>position {position}, token {visible(token)}"
        if not np.isnan(effects[index]):
            hover += f"<br>ablated here: {plain(metric)} changes by {effects[index]:+.4g}"
        if not np.isnan(controls[index]):
            hover += f"<br>other codes near here: {controls[index]:+.4g}"
        hovers.append(hover)
    return hovers
