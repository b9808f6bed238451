"""Tokens as running text: which line each stands on, and where on it."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from clvq_lens.errors import ConfigError
from clvq_lens.plots.text import shortened, visible

WIDTH = 72  # characters of a line, of a size that one can read on most pages
_SHORTEST_LINE = 44  # characters; a text of a few words is not spread over the whole page
# Fonts in which all characters are equally wide, so that tokens have room for what they hold.
FONT = "DejaVu Sans Mono, Menlo, Consolas, monospace"
HIDDEN_AXIS = {"visible": False, "fixedrange": True}  # text does not zoom


@dataclass(frozen=True)
class Placed:
    """Where a token stands, in characters and lines."""

    index: int
    line: int
    start: int
    width: int


def lay_out(tokens: Sequence[str], width: int, *, least: int = 1) -> list[Placed]:
    """Breaks lines before words, and within a word only where it is longer than a line.

    Args:
        tokens: Tokens with the spaces that belong to them.
        width: Characters in a line.
        least: Characters that a token takes even if it has fewer.

    Raises:
        ConfigError: If a line has no character.
    """
    if width < 1:
        raise ConfigError(f"A line has width={width} characters. Choose 1 or more.")
    columns = [min(width, max(least, _columns(token))) for token in tokens]
    placed: list[Placed] = []
    line, start = 0, 0
    for index, token in enumerate(tokens):
        begins_word = index == 0 or token[:1].isspace() or tokens[index - 1][-1:].isspace()
        needed = _columns_of_word(tokens, columns, index, width) if begins_word else columns[index]
        if start and start + needed > width:
            line, start = line + 1, 0
        placed.append(Placed(index, line, start, columns[index]))
        start += columns[index]
        if token.endswith("\n"):
            line, start = line + 1, 0
    return placed


def shown(token: str, width: int) -> str:
    """A token as it is written where it stands, safe to show.

    Args:
        token: Token from data.
        width: Characters for which there is room.
    """
    return visible(shortened(token.strip() or token, width))


def count_lines(placed: Sequence[Placed]) -> int:
    """Lines of a text; an empty text has one, so that its figure has a height.

    Args:
        placed: All tokens of the text.
    """
    return placed[-1].line + 1 if placed else 1


def longest_line(placed: Sequence[Placed], width: int) -> int:
    """Characters across a figure of a text: a whole line, or fewer where no line is full.

    Args:
        placed: All tokens of the text.
        width: Characters in a line.
    """
    longest = min(width, _SHORTEST_LINE)
    for place in placed:
        longest = max(longest, place.start + place.width)
    return longest


def add_bars(
    figure: go.Figure,
    places: Sequence[Placed],
    middles: Sequence[float | int],
    gap: float,
    **options: object,
) -> None:
    """Adds one bar for each token, as wide as the token.

    Args:
        figure: The figure, which is changed.
        places: Where the tokens stand.
        middles: Where the middle of each bar stands on the y axis.
        gap: Characters that stay free between a bar and the next. Below zero, bars reach into their
            neighbors by half of it on each side.
        options: All else that ``add_bar`` of plotly takes.
    """
    figure.add_bar(
        orientation="h",
        base=[place.start + min(0, gap) / 2 for place in places],
        x=[place.width - gap for place in places],
        y=middles,
        **options,
    )


def written(font_px: int, color: str | Sequence[str]) -> dict[str, object]:
    """How text stands in a bar: in its middle, and smaller where there is little room.

    Args:
        font_px: Size of the font where there is room.
        color: Color of the text, or of that in each bar.
    """
    return {
        "textfont": {"family": FONT, "size": font_px, "color": color},
        "textposition": "inside",
        "insidetextanchor": "middle",
        "textangle": 0,
        "constraintext": "inside",
    }


def _columns_of_word(tokens: Sequence[str], columns: Sequence[int], index: int, width: int) -> int:
    """Columns from a token to the end of its word; of its first token if no line can hold it."""
    total = columns[index]
    for following in range(index + 1, len(tokens)):
        if tokens[following][:1].isspace() or total > width:
            break
        total += columns[following]
    return total if total <= width else columns[index]


def _columns(token: str) -> int:
    """Width of a token in columns; Chinese and the like take two for a character."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in token)
    return max(1, len(token) + wide)
