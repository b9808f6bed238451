"""The tokens of a text as running text, coloured by concept."""

import html
from collections import Counter
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from clvq_lens.errors import LengthMismatchError
from clvq_lens.plots.colours import colour_of
from clvq_lens.plots.running_text import FONT, WIDTH, Placed, lay_out, longest_line, shown
from clvq_lens.plots.text import code_name, visible
from clvq_lens.plots.theme import TEXT, ink, themed

_LINE_PX = 46
_FONT_PX = 16  # of tokens where there is room; plotly makes text smaller to fit its bar
_NUMBER = "<span style='font-size:68%'>"
_LEGEND_PX = 20  # height of one line of the legend
_LEGEND_WIDTH_PX = 640  # of a narrow page
_N_NAMED = 16  # concepts in the legend
_NAME_WIDTH = 26


def plot_token_strip(
    tokens: Sequence[str],
    codes: Sequence[int],
    labels: Mapping[int, str] | None = None,
    *,
    colours: Sequence[str] | None = None,
    width: int = WIDTH,
) -> go.Figure:
    """One text with the concept of every token as its background, and the number below the token.

    The figure is as wide as the page. The commonest concepts of the text are named below it.

    Args:
        tokens: What stands at each position, with the spaces that belong to tokens.
        codes: The code of each token, -1 where there is none: padding and special tokens stay
            uncoloured.
        labels: What codes mean, shown in the legend and on hover.
        colours: Of all codes, from `code_colours`, so that a code looks the same in every figure;
            None: the codebook is not known.
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
    labels = labels or {}
    n_digits = len(str(max([0, *codes])))
    placed = lay_out(tokens, width, least=min(width, n_digits + 1))  # room for the number
    n_lines = placed[-1].line + 1 if placed else 1
    counts = Counter(int(code) for code in codes)
    by_count = [code for code, _ in counts.most_common() if code >= 0]
    names = {code: code_name(code, labels.get(code, ""), width=_NAME_WIDTH) for code in by_count}
    named = [code for code in by_count if labels.get(code)][:_N_NAMED]
    figure = go.Figure()
    for code in (*by_count, -1):
        places = [place for place in placed if codes[place.index] == code]
        if places:
            _draw(figure, code, tokens, places, labels, colour_of(code, colours))
            figure.data[-1].update(name=names.get(code, ""), showlegend=code in named)
    hidden = {"visible": False, "fixedrange": True}
    figure.update_xaxes(range=[0, longest_line(placed, width)], **hidden)
    figure.update_yaxes(range=[n_lines - 0.5, -0.5], **hidden)
    legend = _legend_lines([names[code] for code in named]) * _LEGEND_PX
    title = (
        f"Concepts of a text: {len(names):,} codes over {sum(counts[c] for c in names):,} tokens"
    )
    figure = themed(figure, title=title, height=72 + _LINE_PX * n_lines + legend)
    return figure.update_layout(
        barmode="overlay",
        margin={"l": 16, "r": 16, "t": 52, "b": 20 + legend, "autoexpand": False},
        legend={"x": 0, "xanchor": "left", "y": 0, "yanchor": "top", "traceorder": "normal"},
        hoverlabel={"align": "left"},
    )


def _draw(
    figure: go.Figure,
    code: int,
    tokens: Sequence[str],
    places: Sequence[Placed],
    labels: Mapping[int, str],
    colour: str,
) -> None:
    """All tokens of one code."""
    what = "no code" if code < 0 else f"code {code_name(code, labels.get(code, ''))}"
    number = "" if code < 0 else f"<br>{_NUMBER}{code}</span>"
    figure.add_bar(
        orientation="h",
        legendgroup=str(code),
        base=[place.start for place in places],
        x=[place.width - 0.2 for place in places],  # a gap between one background and the next
        y=[place.line for place in places],
        width=0.88,
        marker={"color": colour, "opacity": 0 if code < 0 else 1, "line": {"width": 0}},
        text=[shown(tokens[place.index], place.width) + number for place in places],
        textfont={"family": FONT, "size": _FONT_PX, "color": TEXT if code < 0 else ink(colour)},
        textposition="inside",
        insidetextanchor="middle",
        textangle=0,
        constraintext="inside",
        hovertext=[
            f"position {place.index} {visible(tokens[place.index])}<br>{what}" for place in places
        ],
        hovertemplate="%{hovertext}<extra></extra>",
    )


def _legend_lines(names: Sequence[str]) -> int:
    if not names:
        return 0
    longest = max(len(html.unescape(name)) for name in names)
    in_a_line = max(1, _LEGEND_WIDTH_PX // (42 + 7 * longest))
    return -(-len(names) // in_a_line)
