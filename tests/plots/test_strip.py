import pytest

from clvq_lens.errors import ConfigError, LengthMismatchError
from clvq_lens.plots.strip import plot_token_strip
from tests.plots.figures import HOSTILE, assert_harmless

TOKENS = ["<bos>", "The", " sea", " un", "rest", " the", " sea", "."]
CODES = [-1, 4, 17, 5, 5, 4, 17, 30]


def drawn(figure) -> list[tuple[int, float, float, str, str]]:
    """Line, start, width, text and name of every token, in reading order."""
    return sorted(
        (line, start, width, text, bars.name)
        for bars in figure.data
        for line, start, width, text in zip(
            bars.y, bars.base, bars.x, (text.split("<br>")[0] for text in bars.text), strict=True
        )
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
    widths = [round(width + 0.2) for _, _, width, *_ in found]
    assert widths == [5, 3, 4, 3, 4, 4, 4, 3]  # the full stop has room for its code, too


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


def test_every_code_has_its_color_and_its_number_however_many_there_are():
    codes = list(range(40))
    colors = [f"#0000{code:02x}" for code in codes]
    bars = plot_token_strip([" word"] * 40, codes, colors=colors).data
    assert [bar.marker.color for bar in bars] == colors
    assert all(bar.marker.opacity == 1 for bar in bars)
    assert [bar.text[0].split(">")[-2].removesuffix("</span") for bar in bars] == list(
        map(str, codes)
    )


def test_the_commonest_named_concepts_are_in_the_legend():
    codes = [code for code in range(30) for _ in range(30 - code)]
    names = {code: f"name {code}" for code in range(1, 30)}
    bars = plot_token_strip([" word"] * len(codes), codes, names).data
    assert [bar.name for bar in bars if bar.showlegend] == [f"{c} name {c}" for c in range(1, 17)]


def test_tokens_without_a_code_are_uncolored_and_not_in_the_legend():
    [special] = [bar for bar in plot_token_strip(TOKENS, CODES).data if bar.legendgroup == "-1"]
    assert special.marker.opacity == 0
    assert special.showlegend is False
    assert special.text == ("&lt;bos&gt;",)
    assert special.hovertext == ("position 0 &lt;bos&gt;<br>no code",)


def test_every_negative_number_means_that_there_is_no_code():
    assert plot_token_strip(["a", "b"], [-2, 3]) == plot_token_strip(["a", "b"], [-1, 3])


def test_a_hover_tells_position_token_code_and_the_whole_name():
    name = "a name which is too long for a legend"
    figure = plot_token_strip(TOKENS, CODES, {17: name})
    [water] = [bar for bar in figure.data if bar.legendgroup == "17"]
    assert water.hovertext[0] == f"position 2 \u2423sea<br>code 17 {name}"
    assert len(water.name) < len(name)


def test_the_title_counts_codes_and_tokens():
    title = plot_token_strip(TOKENS, CODES).layout.title.text
    assert title == "Concepts of a text: 4 codes over 7 tokens"


def test_the_figure_is_as_wide_as_the_page_and_as_high_as_its_lines():
    short, long = (plot_token_strip(TOKENS * n, CODES * n) for n in (1, 40))
    assert short.layout.width is None
    n_lines = max(max(bar.y) for bar in long.data) + 1
    assert long.layout.height - short.layout.height == 46 * (n_lines - 1)
    assert long.layout.xaxis.range == (0, 72)
    assert short.layout.xaxis.range == (0, 44)  # a short text is not spread over the page
    assert plot_token_strip(TOKENS * 40, CODES * 40, width=30).layout.xaxis.range == (0, 30)


def test_an_empty_text_is_an_empty_figure():
    figure = plot_token_strip([], [])
    assert len(figure.data) == 0
    assert figure.layout.title.text == "Concepts of a text: 0 codes over 0 tokens"


def test_tokens_and_names_are_no_markup():
    assert_harmless(plot_token_strip([HOSTILE, "a"], [3, 4], {4: HOSTILE}))


def test_refusals():
    with pytest.raises(LengthMismatchError, match="2 tokens and 1 codes"):
        plot_token_strip(["a", "b"], [1])
    with pytest.raises(ConfigError, match="width=0 characters"):
        plot_token_strip(["a"], [1], width=0)
