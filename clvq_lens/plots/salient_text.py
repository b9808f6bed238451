"""A text with the salience of its tokens."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from clvq_lens.errors import LengthMismatchError
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
from clvq_lens.plots.text import plain, visible
from clvq_lens.plots.theme import FONT_PX, LOWERS, RAISES, TEXT, channels, themed

_LINE_PX = 44
_LEGEND_PX = 30
_TOKEN_PX = 16  # size of the font of tokens
# Heights in lines.
_TOKEN_HEIGHT = 0.62  # so much that plotly need not shrink the font
_TALLEST_BAR = 0.4
_TO_BARS = 0.22  # from the middle of a line to the bars below it
_GAP = 0.15  # characters between a bar and the next
# Plotly keeps text 3 pixels away from both ends of its bar. The bars of tokens are not seen, so
# they are longer by as much: a token without a space would be written in a smaller font.
_OVERLAP = 0.7  # characters


def plot_salience(
    tokens: Sequence[str],
    scores: Sequence[float] | np.ndarray,
    *,
    quantity: str = "the prediction",
    value: float = float("nan"),
    difference: float = float("nan"),
    width: int = WIDTH,
) -> go.Figure:
    """One text, each token colored by its score, with a bar below it as high as the score.

    Args:
        tokens: What stands at each position, with the spaces that belong to tokens.
        scores: The score of each token; NaN where there is none.
        quantity: What the scores add up to.
        value: The quantity; NaN: not known.
        difference: What the scores should add up to; NaN: not known.
        width: Characters in a line: about 40 for a narrow page.

    Raises:
        LengthMismatchError: If there are not as many scores as tokens.
        ConfigError: If ``width`` is below 1.

    Example:
        >>> plot_salience(["A", " delight"], [0.1, 1.2]).data[0].name
        'raises it'
    """
    scores = np.asarray(scores, dtype=float)
    if len(tokens) != len(scores):
        raise LengthMismatchError(
            f"There are {len(tokens)} tokens and {len(scores)} scores. Pass one score for each "
            f"token, and NaN where there is none."
        )
    placed = lay_out(tokens, width)
    n_lines = count_lines(placed)
    largest = float(np.nanmax(np.abs(scores), initial=0)) if len(scores) else 0.0
    # A token without a score looks as one with a score of zero; its hover tells them apart.
    strength = np.nan_to_num(scores) / (largest or 1)
    figure = go.Figure()
    _draw_bars(figure, placed, strength, "raises it", RAISES)
    _draw_bars(figure, placed, -strength, "lowers it", LOWERS)
    _write_tokens(figure, placed, tokens, scores, strength)
    figure.update_xaxes(range=[0, longest_line(placed, width)], **HIDDEN_AXIS)
    figure.update_yaxes(range=[n_lines - 0.35, -0.5], **HIDDEN_AXIS)
    title = f"Salience for {plain(quantity)}{_amounts(value, difference)}"
    figure = themed(figure, title=title, height=72 + _LINE_PX * n_lines + _LEGEND_PX)
    return figure.update_layout(
        barmode="overlay",
        margin={"l": 20, "r": 20, "t": 52, "b": 20 + _LEGEND_PX, "autoexpand": False},
        legend={"y": 0, "yref": "paper", "traceorder": "normal"},  # below the text
        legend_title={"text": f"tallest bar {largest:.3g}", "font": {"size": FONT_PX}},
        hoverlabel={"align": "left"},
    )


def _amounts(value: float, difference: float) -> str:
    """What is known of the quantity, as the end of the title."""
    amounts: list[str] = []
    if not np.isnan(value):
        amounts.append(f"{value:.3g}")
    if not np.isnan(difference):
        amounts.append(f"{difference:+.3g} from the start of the path")
    return f": {', '.join(amounts)}" if amounts else ""


def _draw_bars(
    figure: go.Figure,
    placed: Sequence[Placed],
    strength: Float[np.ndarray, " n"],
    name: str,
    color: str,
) -> None:
    """Draws bars that hang below the tokens of positive strength, as high as it is."""
    places: list[Placed] = []
    heights: list[float] = []
    middles: list[float] = []
    for place in placed:
        height = _TALLEST_BAR * float(strength[place.index])
        if height > 0:
            places.append(place)
            heights.append(height)
            middles.append(place.line + _TO_BARS + height / 2)
    add_bars(
        figure,
        places,
        middles,
        _GAP,
        width=heights,
        name=name,
        showlegend=True,  # also where a text has no such bar, so that legends are alike
        marker={"color": color, "line": {"width": 0}},
        hoverinfo="skip",
    )


def _write_tokens(
    figure: go.Figure,
    placed: Sequence[Placed],
    tokens: Sequence[str],
    scores: Float[np.ndarray, " n"],
    strength: Float[np.ndarray, " n"],
) -> None:
    """Writes the tokens, in colors between that of text, at zero, and that of the bars."""
    texts: list[str] = []
    colors: list[str] = []
    hovers: list[str] = []
    for place in placed:
        token, score = tokens[place.index], scores[place.index]
        said = "no score" if np.isnan(score) else f"score {score:+.4g}"
        texts.append(shown(token, place.width))
        colors.append(_mixed(float(strength[place.index])))
        hovers.append(f"position {place.index} {visible(token)}<br>{said}")
    add_bars(
        figure,
        placed,
        [place.line for place in placed],
        -_OVERLAP,
        width=_TOKEN_HEIGHT,
        showlegend=False,
        marker={"color": TEXT, "opacity": 0},
        text=texts,
        hovertext=hovers,
        hovertemplate="%{hovertext}<extra></extra>",
        **written(_TOKEN_PX, colors),
    )


def _mixed(strength: float) -> str:
    """A color between that of text and that of a sign; all of these are about equally light."""
    color = "#"
    end = channels(RAISES if strength > 0 else LOWERS)
    for text_channel, end_channel in zip(channels(TEXT), end, strict=True):
        mixed = (1 - abs(strength)) * text_channel + abs(strength) * end_channel
        color += f"{round(mixed):02x}"
    return color
