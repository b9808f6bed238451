"""The tokens of a text as running text, coloured by concept."""

import html
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import plotly.graph_objects as go

from clvq_lens.errors import LengthMismatchError
from clvq_lens.plots.running_text import CHARACTER_PX, FONT, Placed, lay_out, shown
from clvq_lens.plots.text import code_name, visible
from clvq_lens.plots.theme import CONCEPT_COLOURS, TEXT, code_colours, ink, themed

_LINE_PX = 27
_LEGEND_PX = 20  # height of one line of the legend
_PALE = 0.18  # opacity of concepts without a place in the legend
_NAME_WIDTH = 26


class _Look(NamedTuple):
    colour: str
    opacity: float
    text: str


def plot_token_strip(
    tokens: Sequence[str],
    codes: Sequence[int],
    labels: Mapping[int, str] | None = None,
    *,
    width: int = 84,
) -> go.Figure:
    """One text with the concept of every token as its background.

    The twelve commonest concepts of the text are named below it, and each has a strong colour of
    its own: that of `clvq_lens.plots.code_colours` if no commoner one has it. The others are pale.

    Args:
        tokens: What stands at each position, with the spaces that belong to tokens.
        codes: The code of each token, -1 where there is none: padding and special tokens stay
            uncoloured.
        labels: What codes mean, shown in the legend and on hover.
        width: Characters in a line. The figure is as wide as these.

    Raises:
        LengthMismatchError: If there are not as many codes as tokens.
        ConfigError: If ``width`` is below 1.

    Example:
        >>> plot_token_strip(["The", " sea"], [4, 17], {17: "water"}).data[1].name
        '17 water'
    """
    if len(tokens) != len(codes):
        raise LengthMismatchError(
            f"There are {len(tokens)} tokens and {len(codes)} codes. Pass one code for each token, "
            f"and -1 where there is none."
        )
    labels = labels or {}
    placed = lay_out(tokens, width)
    n_lines = placed[-1].line + 1 if placed else 1
    counts = Counter(int(code) for code in codes)
    names = {
        code: code_name(code, labels.get(code, ""), width=_NAME_WIDTH)
        for code, _ in counts.most_common()
        if code >= 0
    }
    figure = go.Figure()
    strong = _strong_colours(list(names)[: len(CONCEPT_COLOURS)])
    for code in (*names, -1):
        places = [place for place in placed if codes[place.index] == code]
        if places:
            look = _look(code, strong)
            _draw(figure, code, names.get(code, ""), tokens, places, labels, look)
    hidden = {"visible": False, "fixedrange": True}
    figure.update_xaxes(range=[0, width], **hidden)
    figure.update_yaxes(range=[n_lines - 0.4, -0.6], **hidden)
    inner = round(width * CHARACTER_PX)
    legend = _legend_lines([names[code] for code in strong], inner) * _LEGEND_PX
    title = (
        f"Concepts of a text: {len(names):,} codes over {sum(counts[c] for c in names):,} tokens"
    )
    figure = themed(figure, title=title, height=72 + _LINE_PX * n_lines + legend)
    return figure.update_layout(
        width=inner + 40,
        barmode="overlay",
        margin={"l": 20, "r": 20, "t": 52, "b": 20 + legend, "autoexpand": False},
        legend={"x": 0, "xanchor": "left", "y": 0, "yanchor": "top", "traceorder": "normal"},
        hoverlabel={"align": "left"},
    )


def _strong_colours(codes: Sequence[int]) -> dict[int, str]:
    """A colour for each of at most twelve codes, its own where it is free."""
    colours: dict[int, str] = {}
    for code, own in zip(codes, code_colours(codes), strict=True):
        free = [colour for colour in CONCEPT_COLOURS if colour not in colours.values()]
        colours[code] = own if own in free else free[0]
    return colours


def _look(code: int, strong: Mapping[int, str]) -> _Look:
    if code in strong:
        return _Look(strong[code], 1, ink(strong[code]))
    return _Look(code_colours([code])[0], 0 if code < 0 else _PALE, TEXT)


def _draw(
    figure: go.Figure,
    code: int,
    name: str,
    tokens: Sequence[str],
    places: Sequence[Placed],
    labels: Mapping[int, str],
    look: _Look,
) -> None:
    """All tokens of one code."""
    what = "no code" if code < 0 else f"code {code_name(code, labels.get(code, ''))}"
    figure.add_bar(
        orientation="h",
        name=name,
        legendgroup=str(code),
        showlegend=look.opacity == 1,
        base=[place.start for place in places],
        x=[place.width - 0.15 for place in places],  # a gap between one background and the next
        y=[place.line for place in places],
        width=0.86,
        marker={"color": look.colour, "opacity": look.opacity, "line": {"width": 0}},
        text=[shown(tokens[place.index], place.width) for place in places],
        textfont={"family": FONT, "size": 13, "color": look.text},
        textposition="inside",
        insidetextanchor="middle",
        textangle=0,
        constraintext="none",
        hovertext=[
            f"position {place.index} {visible(tokens[place.index])}<br>{what}" for place in places
        ],
        hovertemplate="%{hovertext}<extra></extra>",
    )


def _legend_lines(names: Sequence[str], inner_px: int) -> int:
    if not names:
        return 0
    in_a_line = max(1, inner_px // (42 + 6 * max(len(html.unescape(name)) for name in names)))
    return -(-len(names) // in_a_line)
