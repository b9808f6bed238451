"""Tokens as running text: which line each stands on, and where on it."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from clvq_lens.errors import ConfigError
from clvq_lens.plots.text import shortened, visible

WIDTH = 72  # characters of a line, of a size that one can read on most pages
_SHORTEST_LINE = 44  # characters; a text of a few words is not spread over the whole page
FONT = "DejaVu Sans Mono, Menlo, Consolas, monospace"


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
        tokens: With the spaces that belong to them.
        width: Characters in a line.
        least: Characters that a token takes even if it has fewer.

    Raises:
        ConfigError: If a line has no character.
    """
    if width < 1:
        raise ConfigError(f"A line has width={width} characters. Choose 1 or more.")
    columns = [min(width, max(least, _columns(token))) for token in tokens]
    placed, line, start = [], 0, 0
    for index, token in enumerate(tokens):
        n = columns[index]
        begins_word = index == 0 or token[:1].isspace() or tokens[index - 1][-1:].isspace()
        needed = _word(tokens, columns, index, width) if begins_word else n
        if start and start + needed > width:
            line, start = line + 1, 0
        placed.append(Placed(index, line, start, n))
        start += n
        if token.endswith("\n"):
            line, start = line + 1, 0
    return placed


def shown(token: str, width: int) -> str:
    """A token as it is written where it stands, safe to show.

    Args:
        token: From data.
        width: Characters for which there is room.
    """
    return visible(shortened(token.strip() or token, width))


def longest_line(placed: Sequence[Placed], width: int) -> int:
    """Characters across a figure of a text: a whole line, or less where no line is full."""
    ends = [place.start + place.width for place in placed]
    return max([min(width, _SHORTEST_LINE), *ends])


def _word(tokens: Sequence[str], columns: Sequence[int], index: int, width: int) -> int:
    """Characters from a token to the end of its word; of one longer than a line, its first."""
    total = columns[index]
    for following in range(index + 1, len(tokens)):
        if tokens[following][:1].isspace() or total > width:
            break
        total += columns[following]
    return total if total <= width else columns[index]


def _columns(token: str) -> int:
    """Width of a token in characters; Chinese and the like take two."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in token)
    return max(1, len(token) + wide)
