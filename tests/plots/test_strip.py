import pytest

from clvq_lens.errors import ConfigError, LengthMismatchError
from clvq_lens.plots.strip import plot_token_strip
from clvq_lens.plots.theme import CONCEPT_COLOURS, code_colours
from tests.plots.figures import HOSTILE, assert_harmless

TOKENS = ["<bos>", "The", " sea", " un", "rest", " the", " sea", "."]
CODES = [-1, 4, 17, 5, 5, 4, 17, 30]


def drawn(figure) -> list[tuple[int, float, float, str, str]]:
    """Line, start, width, text and name of every token, in reading order."""
    return sorted(
        (line, start, width, text, bars.name)
        for bars in figure.data
        for line, start, width, text in zip(bars.y, bars.base, bars.x, bars.text, strict=True)
    )


def test_tokens_stand_in_their_order_each_under_its_code():
    found = drawn(plot_token_strip(TOKENS, CODES, {17: "water"}))
    assert [text for *_, text, _ in found] == [
        "&lt;bos&gt;", "The", "sea", "un", "rest", "the", "sea", ".",
    ]  # fmt: skip
    assert [name for *_, name in found] == ["", "4", "17 water", "5", "5", "4", "17 water", "30"]


def test_a_token_takes_as_much_room_as_it_has_characters():
    found = drawn(plot_token_strip(TOKENS, CODES))
    starts = [0, 5, 8, 12, 15, 19, 23, 27]
    assert [start for _, start, *_ in found] == starts
    assert [round(width + 0.15) for _, _, width, *_ in found] == [len(token) for token in TOKENS]


def test_lines_break_before_words():
    found = drawn(plot_token_strip(TOKENS, CODES, width=15))
    lines: dict[int, list[str]] = {}
    for line, _, _, text, _ in found:
        lines.setdefault(line, []).append(text)
    assert list(lines.values()) == [
        ["&lt;bos&gt;", "The", "sea"],
        ["un", "rest", "the"],
        ["sea", "."],
    ]
    for _, start, width, *_ in found:
        assert start + width <= 15


def test_words_longer_than_a_line_break_between_tokens_and_longer_tokens_are_cut():
    found = drawn(plot_token_strip(["ab", "cd", "ef", "overlong"], [1, 2, 3, 4], width=5))
    assert [(line, text) for line, _, _, text, _ in found] == [
        (0, "ab"), (0, "cd"), (1, "ef"), (2, "over\u2026"),
    ]  # fmt: skip


def test_a_line_break_of_the_text_is_shown_and_kept():
    found = drawn(plot_token_strip(["a", "\n", "b"], [1, 2, 1]))
    assert [(line, text) for line, *_, text, _ in found] == [(0, "a"), (0, "\u21b5"), (1, "b")]


def test_wide_characters_take_two_columns():
    found = drawn(plot_token_strip(["漢字", "x"], [1, 2]))
    assert [start for _, start, *_ in found] == [0, 4]


def test_named_codes_have_colours_of_their_own_and_the_others_are_pale():
    tokens, codes = [], []
    for rank, code in enumerate([0, 12, 24, *range(100, 112)]):  # 0, 12 and 24 share a colour
        tokens += [" word"] * (20 - rank)
        codes += [code] * (20 - rank)
    bars = plot_token_strip(tokens, codes).data
    named = [bar for bar in bars if bar.showlegend]
    assert [bar.name for bar in named[:3]] == ["0", "12", "24"]
    assert {bar.marker.color for bar in named} == set(CONCEPT_COLOURS)
    assert named[0].marker.color == code_colours([0])[0]
    pale = [bar for bar in bars if not bar.showlegend]
    assert len(pale) == 3
    assert all(0 < bar.marker.opacity < 0.3 for bar in pale)
    assert [bar.marker.color for bar in pale] == code_colours([109, 110, 111])


def test_tokens_without_a_code_are_uncoloured_and_not_in_the_legend():
    [special] = [bar for bar in plot_token_strip(TOKENS, CODES).data if bar.legendgroup == "-1"]
    assert special.marker.opacity == 0
    assert special.showlegend is False
    assert special.hovertext == ("position 0 &lt;bos&gt;<br>no code",)


def test_a_hover_tells_position_token_code_and_the_whole_label():
    label = "a label which is too long for a legend"
    figure = plot_token_strip(TOKENS, CODES, {17: label})
    [water] = [bar for bar in figure.data if bar.legendgroup == "17"]
    assert water.hovertext[0] == f"position 2 \u2423sea<br>code 17 {label}"
    assert len(water.name) < len(label)


def test_the_title_counts_codes_and_tokens():
    title = plot_token_strip(TOKENS, CODES).layout.title.text
    assert title == "Concepts of a text: 4 codes over 7 tokens"


def test_a_longer_text_is_higher_and_a_wider_line_is_wider():
    short, long = (plot_token_strip(TOKENS * n, CODES * n) for n in (1, 40))
    assert long.layout.height > short.layout.height + 200
    assert plot_token_strip(TOKENS, CODES, width=40).layout.width < short.layout.width < 768


def test_an_empty_text_is_an_empty_figure():
    figure = plot_token_strip([], [])
    assert len(figure.data) == 0
    assert figure.layout.title.text == "Concepts of a text: 0 codes over 0 tokens"


def test_tokens_and_labels_are_no_markup():
    assert_harmless(plot_token_strip([HOSTILE, "a"], [3, 4], {4: HOSTILE}))


def test_refusals():
    with pytest.raises(LengthMismatchError, match="2 tokens and 1 codes"):
        plot_token_strip(["a", "b"], [1])
    with pytest.raises(ConfigError, match="width=0 characters"):
        plot_token_strip(["a"], [1], width=0)
