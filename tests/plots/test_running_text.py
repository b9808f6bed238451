"""Tokens as running text."""

import plotly.graph_objects as go
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clvq_lens.errors import ConfigError
from clvq_lens.plots.running_text import (
    FONT,
    Placed,
    add_bars,
    count_lines,
    lay_out,
    longest_line,
    shown,
    written,
)


def lines(tokens: list[str], width: int, **options: int) -> list[list[str]]:
    """The tokens of each line."""
    found: dict[int, list[str]] = {}
    for place in lay_out(tokens, width, **options):
        found.setdefault(place.line, []).append(tokens[place.index])
    return list(found.values())


def test_lines_break_before_words_and_not_within_them():
    tokens = ["The", " un", "rest", "ful", " sea"]
    assert lines(tokens, 12) == [["The"], [" un", "rest", "ful"], [" sea"]]
    assert lines(tokens, 13) == [["The", " un", "rest", "ful"], [" sea"]]


def test_a_word_longer_than_a_line_breaks_between_its_tokens():
    assert lines(["ab", "cd", "ef", " g"], 5) == [["ab", "cd"], ["ef", " g"]]


def test_a_line_break_ends_its_line():
    assert lines(["a", "\n", "b"], 80) == [["a", "\n"], ["b"]]


def test_tokens_follow_each_other_without_gaps():
    assert lay_out(["The", " sea"], 80) == [Placed(0, 0, 0, 3), Placed(1, 0, 3, 4)]


def test_wide_characters_take_two_columns_and_short_tokens_the_least():
    assert [place.width for place in lay_out(["漢字", "x", ""], 80)] == [4, 1, 1]
    assert [place.width for place in lay_out(["漢字", "x", ""], 80, least=3)] == [4, 3, 3]


@given(st.lists(st.text(max_size=8), max_size=30), st.integers(1, 20))
def test_every_token_stands_once_inside_its_line_and_in_order(tokens, width):
    placed = lay_out(tokens, width)
    assert [place.index for place in placed] == list(range(len(tokens)))
    assert all(place.start + place.width <= width for place in placed)
    reading_order = [(place.line, place.start) for place in placed]
    assert reading_order == sorted(set(reading_order))
    assert all(place.width > 0 for place in placed)


def test_a_token_is_cut_to_its_room_and_white_space_alone_is_shown():
    assert shown(" overlong", 5) == "over\u2026"
    assert shown(" <b>", 4) == "&lt;b&gt;"
    assert shown(" ", 4) == "\u2423"


def test_a_figure_is_as_wide_as_its_longest_line_but_no_short_text_is_spread_over_it():
    assert longest_line(lay_out(["a"] * 60, 72), 72) == 60
    assert longest_line(lay_out(["a"], 72), 72) == 44
    assert longest_line([], 30) == 30


def test_lines_are_counted_and_an_empty_text_has_one():
    assert count_lines(lay_out(["a", "\n", "b"], 72)) == 2
    assert count_lines([]) == 1


def test_bars_are_as_wide_as_their_tokens_less_the_gap():
    figure = go.Figure()
    add_bars(figure, lay_out(["The", " sea"], 80), [0, 0.5], 0.25, **written(16, "#7a7f87"))
    [bars] = figure.data
    assert (bars.base, bars.x, bars.y) == ((0, 3), (2.75, 3.75), (0, 0.5))
    assert bars.orientation == "h"
    assert (bars.textfont.family, bars.textfont.size) == (FONT, 16)
    assert bars.constraintext == "inside"  # smaller where there is little room, never outside


def test_a_line_without_a_character_is_refused():
    with pytest.raises(ConfigError, match="width=0 characters"):
        lay_out(["a"], 0)
