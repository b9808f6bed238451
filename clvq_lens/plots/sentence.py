"""The concepts of one text, token by token and quantizer by quantizer."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from clvq_lens.plots.colours import colour_of
from clvq_lens.plots.inputs import HasFrame, as_frame
from clvq_lens.plots.running_text import FONT, WIDTH, Placed, lay_out, longest_line, shown
from clvq_lens.plots.text import code_name, plain, shortened, visible
from clvq_lens.plots.theme import COLOURS, TEXT, ink, themed

# Heights in pixels, which are the units of the y axis.
_TOKEN, _CELL, _EFFECT = 24, 38, 34
_SPACE = 5  # between lanes
_BETWEEN_LINES = 16
_LEAST = 6  # characters that a token takes, so that a code and a word of its name fit
_FONT_PX = 14
_NAME_WIDTH = 12  # characters of a quantizer's name beside its lane
_LEGEND_WIDTH = 40  # characters
_RAISES, _LOWERS = COLOURS[4], COLOURS[0]


class _Lane(NamedTuple):
    """One quantizer: where its cells and effects stand below the top of a line, in pixels."""

    rows: pd.DataFrame
    cell: int
    effect: int


def plot_sentence(
    sentence: pd.DataFrame | HasFrame,
    *,
    metric: str = "",
    colours: Mapping[str, Sequence[str]] | None = None,
    width: int = WIDTH,
) -> go.Figure:
    """The text in lines, and below each token its code at every quantizer, the last one on top.

    Where effects were measured, a bar below each cell shows that of ablating its code there, and a
    short line that of a random code.

    Args:
        sentence: From `sentence_flow`, or its ``.frame(labels)``.
        metric: Of the effects, if there are any.
        colours: Of the codes of each quantizer by its name, from `code_colours`.
        width: Characters in a line: about 40 for a narrow page.

    Raises:
        ConfigError: If ``width`` is below 1.
    """
    frame = as_frame(sentence)
    has_effects = "effect" in frame and bool(np.isfinite(frame["effect"]).any())
    names = frame["quantizer"].drop_duplicates().tolist()
    lanes, line_height = _lanes(frame, names[::-1], has_effects)
    tokens = frame[frame["quantizer"] == names[0]]["token"].tolist()
    placed = lay_out(tokens, width, least=min(width, _LEAST))
    n_lines = placed[-1].line + 1 if placed else 1
    tops = [line * (line_height + _BETWEEN_LINES) for line in range(n_lines)]
    figure = go.Figure()
    _write_tokens(figure, tokens, placed, tops)
    for lane in lanes:
        _draw_cells(figure, lane, placed, tops, metric, colours or {})
    if has_effects:
        largest = float(np.nanmax(np.abs(frame[["effect", "control"]].to_numpy(dtype=float))))
        _draw_effects(figure, lanes, placed, tops, metric, largest or 1.0)
    height = tops[-1] + line_height
    figure.update_xaxes(
        range=[0, longest_line(placed, width)], visible=False, fixedrange=True
    ).update_yaxes(
        range=[height, 0],
        tickvals=[top + lane.cell + _CELL / 2 for top in tops for lane in lanes],
        ticktext=[plain(shortened(name, _NAME_WIDTH)) for _ in tops for name in names[::-1]],
        ticks="",
        fixedrange=True,
    )
    legend = 64 if has_effects else 0
    figure = themed(figure, title="Concepts of one text", height=72 + height + legend)
    figure.update_yaxes(showgrid=False, zeroline=False, showline=False)
    return figure.update_layout(
        barmode="overlay",
        margin={"l": 40, "r": 16, "t": 52, "b": 20 + legend},
        legend={"x": 0, "y": 0, "yanchor": "top", "traceorder": "normal"},
        hoverlabel={"align": "left"},
    )


def _lanes(frame: pd.DataFrame, names: Sequence[str], has_effects: bool) -> tuple[list[_Lane], int]:
    """The quantizers from the top, below the tokens, and the height of a line."""
    lanes, top = [], _TOKEN
    for name in names:
        effect = top + _CELL + _SPACE
        lanes.append(_Lane(frame.loc[frame["quantizer"] == name], top, effect))
        top = effect + (_EFFECT + _SPACE if has_effects else 0)
    return lanes, top


def _bars(
    figure: go.Figure, places: Sequence[Placed], middles: Sequence[float], **options: object
) -> None:
    """One bar for each token, as wide as the token."""
    figure.add_bar(
        orientation="h",
        base=[place.start for place in places],
        x=[place.width - 0.2 for place in places],
        y=middles,
        **{"showlegend": False, **options},
    )


def _write_tokens(
    figure: go.Figure, tokens: Sequence[str], placed: Sequence[Placed], tops: Sequence[int]
) -> None:
    _bars(
        figure,
        placed,
        [tops[place.line] + _TOKEN / 2 for place in placed],
        width=_TOKEN,
        marker={"opacity": 0},
        text=[shown(tokens[place.index], place.width) for place in placed],
        hoverinfo="skip",
        **_text(TEXT),
    )


def _draw_cells(
    figure: go.Figure,
    lane: _Lane,
    placed: Sequence[Placed],
    tops: Sequence[int],
    metric: str,
    colours: Mapping[str, Sequence[str]],
) -> None:
    quantizer = lane.rows["quantizer"].iloc[0]
    codes = lane.rows["code"].tolist()
    labels = lane.rows["label"].tolist() if "label" in lane.rows else [""] * len(codes)
    hovers = _hovers(lane.rows, labels, metric)
    places = [place for place in placed if codes[place.index] >= 0]
    own = [colour_of(codes[place.index], colours.get(quantizer)) for place in places]
    _bars(
        figure,
        places,
        [tops[place.line] + lane.cell + _CELL / 2 for place in places],
        width=_CELL,
        name=quantizer,
        marker={"color": own, "line": {"width": 0}},
        text=[_cell(codes[p.index], labels[p.index], p.width) for p in places],
        hovertext=[hovers[place.index] for place in places],
        hovertemplate="%{hovertext}<extra></extra>",
        **_text([ink(colour) for colour in own]),
    )


def _draw_effects(
    figure: go.Figure,
    lanes: Sequence[_Lane],
    placed: Sequence[Placed],
    tops: Sequence[int],
    metric: str,
    largest: float,
) -> None:
    """Bars above and below a zero line; above it alone where no effect is negative."""
    values = np.stack([lane.rows[["effect", "control"]].to_numpy(dtype=float) for lane in lanes])
    signed = bool((values < 0).any())
    unit = _EFFECT / (2 if signed else 1) / largest  # pixels
    zero = _EFFECT / 2 if signed else _EFFECT
    for sign, colour in ((1, _RAISES), (-1, _LOWERS)):
        places, middles, heights = [], [], []
        for lane, numbers in zip(lanes, values, strict=True):
            for place in placed:
                effect = numbers[place.index, 0]
                if sign * effect > 0:
                    places.append(place)
                    heights.append(abs(effect) * unit)
                    middles.append(tops[place.line] + lane.effect + zero - effect * unit / 2)
        if places:
            _bars(
                figure, places, middles, width=heights, marker={"color": colour},
                name=_wrapped(f"{'raised' if sign > 0 else 'lowered'} by ablating it: {metric}"),
                showlegend=True, hoverinfo="skip",
            )  # fmt: skip
    x: list[float | None] = []
    y: list[float | None] = []
    for lane, numbers in zip(lanes, values, strict=True):
        for place in placed:
            if np.isfinite(numbers[place.index, 1]):
                level = tops[place.line] + lane.effect + zero - numbers[place.index, 1] * unit
                x += [place.start, place.start + place.width - 0.2, None]
                y += [level, level, None]
    figure.add_scatter(
        x=x, y=y, mode="lines", line={"color": TEXT, "width": 1.5}, hoverinfo="skip",
        name=_wrapped(f"by a random code there (full height {largest:.3g})"),
    )  # fmt: skip


def _wrapped(text: str) -> str:
    """A line of the legend, which does not wrap by itself on a narrow page."""
    return "<br>".join(plain(line) for line in textwrap.wrap(text, _LEGEND_WIDTH))


def _text(colour: str | Sequence[str]) -> dict[str, object]:
    """How text stands in a bar: in its middle, and smaller where there is little room."""
    return {
        "textfont": {"family": FONT, "size": _FONT_PX, "color": colour},
        "textposition": "inside",
        "insidetextanchor": "middle",
        "textangle": 0,
        "constraintext": "inside",
    }


def _cell(code: int, label: str, n_characters: int) -> str:
    """A code, and below it the first word of its name."""
    words = label.split() or [label]
    word = plain(shortened(words[0], n_characters)) if words[0].strip() else visible(words[0])
    return f"{code}<br>{word}" if word else str(code)


def _hovers(rows: pd.DataFrame, labels: Sequence[str], metric: str) -> list[str]:
    absent = [np.nan] * len(rows)
    effects = rows["effect"].tolist() if "effect" in rows else absent
    controls = rows["control"].tolist() if "control" in rows else absent
    columns = (rows["quantizer"], rows["position"], rows["token"], rows["code"], labels)
    return [
        f"<b>{plain(quantizer)}: code {code_name(code, label)}</b><br>"
        f"position {position}, token {visible(token)}" + _effect(metric, effect, control)
        for quantizer, position, token, code, label, effect, control in zip(
            *columns, effects, controls, strict=True
        )
    ]


def _effect(metric: str, effect: float, control: float) -> str:
    lines = {
        f"ablated here: {plain(metric)} changes by": effect,
        "a random code here:": control,
    }
    return "".join(f"<br>{what} {by:+.4g}" for what, by in lines.items() if not np.isnan(by))
