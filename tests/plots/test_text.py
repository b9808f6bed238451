import pytest

from clvq_lens.plots.text import code_name, plain, shortened, spelled, visible, wrapped


def test_markup_is_text():
    assert plain('<b>5 > 4 & "so" on</b>') == '&lt;b&gt;5 &gt; 4 &amp; "so" on&lt;/b&gt;'


def test_dollars_are_no_formula():
    """Where a page has MathJax, plotly sets what stands between two dollars as a formula."""
    assert plain("from $5 to $6") == "from &#36;5 to &#36;6"


def test_white_space_of_a_token_shows():
    assert visible(" a\n\t<") == "\u2423a\u21b5\u21e5&lt;"


def test_characters_without_a_shape_show():
    assert visible("a\u200bb\x07") == "aU+200BbU+0007"
    assert visible("\u00a0") == "U+00A0"  # a token of many vocabularies, which looks like none


@pytest.mark.parametrize(
    ("token", "name"),
    [
        (" the", "the"), (",", "comma"), (" .", "full-stop"), (" \u2014", "em-dash"),
        ("$", "dollar"), ("\u00a7", "section-sign"), ("...", "..."),
        ("\n\n", "\u21b5\u21b5"), ("  ", "\u2423\u2423"),
        ("\u6f22", "\u6f22"), ("\U0001f600", "\U0001f600"), ("", ""),
    ],
)  # fmt: skip
def test_marks_and_white_space_are_written_out_in_names(token, name):
    assert spelled(token) == name


@pytest.mark.parametrize(
    ("width", "expected"), [(5, "abcde"), (4, "abc\u2026"), (1, "\u2026"), (9, "abcde")]
)
def test_a_shortened_text_has_no_more_than_its_width(width, expected):
    assert shortened("abcde", width) == expected


def test_a_wrapped_text_is_safe_in_every_line():
    assert wrapped("a < b & c", 5) == "a &lt; b<br>&amp; c"
    assert wrapped("", 5) == ""


def test_a_code_is_called_by_number_and_name():
    assert code_name(17, "<the>") == "17 &lt;the&gt;"
    assert code_name(17, "") == "17"
    assert code_name(-1, "whatever") == "none"
    assert code_name(3, "a & b & c", width=4) == "3 a &amp;\u2026"
