"""The tokens of a text as running text, colored by concept."""

import html
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from clvq_lens.errors import LengthMismatchError
from clvq_lens.plots.colors import color_of
from clvq_lens.plots.running_text import (
    HIDDEN_AXIS,
    WIDTH,
    Placed,
    add_bars,
    count_lines,
    lay_out,
    longest_line,
    shown,
    written,
)
from clvq_lens.plots.text import code_name, visible
from clvq_lens.plots.theme import TEXT, ink, themed

_LINE_PX = 46
_TOKEN_PX = 16  # size of the font of tokens
_NUMBER = "<span style='font-size:68%'>"
_GAP = 0.2  # characters between a background and the next
_LEGEND_PX = 20  # height of one line of the legend
_LEGEND_WIDTH_PX = 640  # on a narrow page
_N_NAMED = 16  # concepts in the legend
_NAME_WIDTH = 26  # characters of a name in the legend


def plot_token_strip(
    tokens: Sequence[str],
    codes: Sequence[int],
    names: Mapping[int, str] | None = None,
    *,
    colors: Sequence[str] | None = None,
    width: int = WIDTH,
) -> go.Figure:
    """One text with the concept of every token as its background, and the number below the token.

    The figure is as wide as the page. The commonest concepts of the text are named below it.

    Args:
        tokens: What stands at each position, with the spaces that belong to tokens.
        codes: The code of each token, -1 where there is none: padding and special tokens stay
            uncolored.
        names: What codes mean, shown in the legend and on hover.
        colors: Colors of all codes, from `code_colors`, so that a code looks the same in every
            figure; None: the codebook is not known.
        width: Characters in a line: about 40 for a narrow page.

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
    names = names or {}
    n_digits = len(str(max([0, *codes])))
    placed = lay_out(tokens, width, least=min(width, n_digits + 1))  # room for the number
    places_of: dict[int, list[Placed]] = {}
    for place in placed:
        places_of.setdefault(max(-1, int(codes[place.index])), []).append(place)
    without_code = places_of.pop(-1, [])
    legend: list[str] = []
    figure = go.Figure()
    # The commonest concepts come first: they are the ones that the legend has room for.
    for code in sorted(places_of, key=lambda code: len(places_of[code]), reverse=True):
        name, color = names.get(code, ""), color_of(code, colors)
        in_legend = bool(name) and len(legend) < _N_NAMED
        if in_legend:
            legend.append(_short_name(code, name))
        _draw_code(figure, tokens, places_of[code], code, name, color, in_legend=in_legend)
    if without_code:
        _draw_rest(figure, tokens, without_code)
    n_with_code = len(placed) - len(without_code)
    title = f"Concepts of a text: {len(places_of):,} codes over {n_with_code:,} tokens"
    n_lines = count_lines(placed)
    legend_px = _LEGEND_PX * _legend_lines(legend)
    figure.update_xaxes(range=[0, longest_line(placed, width)], **HIDDEN_AXIS)
    figure.update_yaxes(range=[n_lines - 0.5, -0.5], **HIDDEN_AXIS)
    figure = themed(figure, title=title, height=72 + _LINE_PX * n_lines + legend_px)
    return figure.update_layout(
        barmode="overlay",
        margin={"l": 16, "r": 16, "t": 52, "b": 20 + legend_px, "autoexpand": False},
        legend={"y": 0, "yref": "paper", "traceorder": "normal"},  # below the text
        hoverlabel={"align": "left"},
    )


def _draw_code(
    figure: go.Figure,
    tokens: Sequence[str],
    places: Sequence[Placed],
    code: int,
    name: str,
    color: str,
    *,
    in_legend: bool,
) -> None:
    """All tokens of one code, with its number below."""
    number = f"<br>{_NUMBER}{code}</span>"
    _draw_tokens(
        figure,
        tokens,
        places,
        below=number,
        hover=f"code {code_name(code, name)}",
        legendgroup=str(code),
        name=_short_name(code, name),
        showlegend=in_legend,
        marker={"color": color, "opacity": 1, "line": {"width": 0}},
        **written(_TOKEN_PX, ink(color)),
    )


def _draw_rest(figure: go.Figure, tokens: Sequence[str], places: Sequence[Placed]) -> None:
    """All tokens without a code, on the background of the page."""
    _draw_tokens(
        figure,
        tokens,
        places,
        below="",
        hover="no code",
        legendgroup="-1",
        name="",
        showlegend=False,
        marker={"color": color_of(-1, None), "opacity": 0, "line": {"width": 0}},
        **written(_TOKEN_PX, TEXT),
    )


def _draw_tokens(
    figure: go.Figure,
    tokens: Sequence[str],
    places: Sequence[Placed],
    *,
    below: str,
    hover: str,
    **options: object,
) -> None:
    texts: list[str] = []
    hovers: list[str] = []
    for place in places:
        token = tokens[place.index]
        texts.append(shown(token, place.width) + below)
        hovers.append(f"position {place.index} {visible(token)}<br>{hover}")
    add_bars(
        figure,
        places,
        [place.line for place in places],
        _GAP,
        width=0.88,  # of a line, so that lines are apart
        text=texts,
        hovertext=hovers,
        hovertemplate="%{hovertext}<extra></extra>",
        **options,
    )


def _short_name(code: int, name: str) -> str:
    return code_name(code, name, width=_NAME_WIDTH)


def _legend_lines(names: Sequence[str]) -> int:
    """How many lines the legend takes on a narrow page: plotly leaves no room for them itself."""
    if not names:
        return 0
    longest = max(len(html.unescape(name)) for name in names)
    # A mark and gaps take 42 pixels, a character about 7; entries are all as wide as the longest.
    per_line = max(1, _LEGEND_WIDTH_PX // (42 + 7 * longest))
    return -(-len(names) // per_line)
