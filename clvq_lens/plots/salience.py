"""A text with the salience of its tokens."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from clvq_lens.errors import LengthMismatchError
from clvq_lens.plots.running_text import FONT, WIDTH, Placed, lay_out, longest_line, shown
from clvq_lens.plots.text import plain, visible
from clvq_lens.plots.theme import COLOURS, TEXT, themed

_LINE_PX = 44
_LEGEND_PX = 30
_BAR = 0.4  # height of the tallest bar, in lines
_UNDER = 0.22  # from the middle of a line to the bars below it
# Both are readable as letters, on white and on black.
_RAISES, _LOWERS = COLOURS[4], COLOURS[0]


def plot_salience(
    tokens: Sequence[str],
    scores: Sequence[float] | np.ndarray,
    *,
    quantity: str = "the prediction",
    value: float = float("nan"),
    difference: float = float("nan"),
    width: int = WIDTH,
) -> go.Figure:
    """One text, each token coloured by its score, with a bar below it as high as the score.

    Args:
        tokens: What stands at each position, with the spaces that belong to tokens.
        scores: Of each token; NaN where there is none.
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
    n_lines = placed[-1].line + 1 if placed else 1
    largest = float(np.nanmax(np.abs(scores), initial=0)) if len(scores) else 0.0
    strength = np.nan_to_num(scores) / (largest or 1)
    figure = go.Figure()
    for sign, name, colour in ((1, "raises it", _RAISES), (-1, "lowers it", _LOWERS)):
        places = [place for place in placed if sign * strength[place.index] > 0]
        _draw_bars(figure, places, np.abs(strength), name, colour)
    _write(figure, placed, tokens, scores, strength)
    hidden = {"visible": False, "fixedrange": True}
    figure.update_xaxes(range=[0, longest_line(placed, width)], **hidden)
    figure.update_yaxes(range=[n_lines - 0.35, -0.5], **hidden)
    title = f"Salience for {plain(quantity)}"
    height = 84 + _LINE_PX * n_lines + _LEGEND_PX
    figure = themed(figure, title=title + _amounts(value, difference), height=height)
    return figure.update_layout(
        barmode="overlay",
        margin={"l": 20, "r": 20, "t": 64, "b": 20 + _LEGEND_PX, "autoexpand": False},
        legend={"x": 0, "xanchor": "left", "y": 0, "yanchor": "top", "traceorder": "normal"},
        legend_title={"text": f"tallest bar {largest:.3g}", "font": {"size": 13}},
        hoverlabel={"align": "left"},
    )


def _amounts(value: float, difference: float) -> str:
    parts = []
    if not np.isnan(value):
        parts.append(f"{value:.3g}")
    if not np.isnan(difference):
        parts.append(f"{difference:+.3g} from the start of the path")
    return f": {', '.join(parts)}" if parts else ""


def _draw_bars(
    figure: go.Figure, places: Sequence[Placed], strength: np.ndarray, name: str, colour: str
) -> None:
    """Bars that hang below the tokens, as high as the scores."""
    lengths = [_BAR * float(strength[place.index]) for place in places]
    figure.add_bar(
        orientation="h",
        name=name,
        showlegend=True,
        base=[place.start for place in places],
        x=[place.width - 0.15 for place in places],  # a gap between one bar and the next
        y=[place.line + _UNDER + each / 2 for place, each in zip(places, lengths, strict=True)],
        width=lengths,
        marker={"color": colour, "line": {"width": 0}},
        hoverinfo="skip",
    )


def _write(
    figure: go.Figure,
    placed: Sequence[Placed],
    tokens: Sequence[str],
    scores: np.ndarray,
    strength: np.ndarray,
) -> None:
    """The tokens, in colours between that of text, at zero, and that of the bars."""
    names = [
        f"position {place.index} {visible(tokens[place.index])}<br>{_score(scores[place.index])}"
        for place in placed
    ]
    figure.add_bar(
        orientation="h",
        showlegend=False,
        base=[place.start for place in placed],
        x=[place.width - 0.15 for place in placed],
        y=[place.line for place in placed],
        width=0.44,
        marker={"color": TEXT, "opacity": 0},
        text=[shown(tokens[place.index], place.width) for place in placed],
        textfont={
            "family": FONT,
            "size": 16,
            "color": [_colour(float(strength[place.index])) for place in placed],
        },
        textposition="inside",
        insidetextanchor="middle",
        textangle=0,
        constraintext="inside",
        hovertext=names,
        hovertemplate="%{hovertext}<extra></extra>",
    )


def _score(score: float) -> str:
    return "no score" if np.isnan(score) else f"score {score:+.4g}"


def _colour(strength: float) -> str:
    """Between the colour of text and that of a sign; all of these are about equally light."""
    end = _RAISES if strength > 0 else _LOWERS
    mixed = (
        round(
            (1 - abs(strength)) * int(TEXT[at : at + 2], 16)
            + abs(strength) * int(end[at : at + 2], 16)
        )
        for at in (1, 3, 5)
    )
    return "#" + "".join(f"{channel:02x}" for channel in mixed)
