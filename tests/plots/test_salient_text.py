import numpy as np
import pytest

from clvq_lens.errors import ConfigError, LengthMismatchError
from clvq_lens.plots.salient_text import plot_salience
from clvq_lens.plots.theme import TEXT, luminance
from tests.plots.figures import HOSTILE, assert_harmless, trace

TOKENS = ["[CLS]", " A", " de", "light", ",", " sadly", "."]
SCORES = [0.2, 0.0, 0.5, 2.0, np.nan, -1.0, -0.2]


def test_bars_hang_below_their_tokens_as_high_as_the_scores():
    figure = plot_salience(TOKENS, SCORES)
    raises, lowers, text = figure.data
    assert [raises.name, lowers.name] == ["raises it", "lowers it"]
    ends = np.cumsum([len(token) for token in TOKENS])
    starts = dict(zip([0, *ends[:-1].tolist()], TOKENS, strict=True))
    assert [starts[base] for base in raises.base] == ["[CLS]", " de", "light"]
    assert [starts[base] for base in lowers.base] == [" sadly", "."]
    np.testing.assert_allclose(np.array(raises.width) / raises.width[2], [0.1, 0.25, 1])
    np.testing.assert_allclose(np.array(lowers.width) / raises.width[2], [0.5, 0.1])
    tops = np.array([*raises.y, *lowers.y]) - np.array([*raises.width, *lowers.width]) / 2
    assert np.ptp(tops) < 1e-9
    assert 0 < tops[0] < text.width / 2
    assert "2" in figure.layout.legend.title.text


def test_no_bar_reaches_the_next_line():
    figure = plot_salience(TOKENS * 20, SCORES * 20, width=20)
    raises, _, text = figure.data
    ends = np.array(raises.y) + np.array(raises.width) / 2
    lines = np.round(np.array(raises.y) - 0.4)
    assert (ends < lines + 1 - text.width / 2).all()
    assert len(set(text.y)) > 10


def test_letters_go_from_the_color_of_text_to_that_of_the_bars():
    raises, lowers, text = plot_salience(TOKENS, SCORES).data
    colors = dict(zip(TOKENS, text.textfont.color, strict=True))
    assert colors[" A"] == colors[","] == TEXT
    assert colors["light"] == raises.marker.color
    only = plot_salience(["no"], [-1.0]).data[2]
    assert only.textfont.color == (lowers.marker.color,)
    for color in colors.values():  # on white, and on almost black
        assert 1.05 / (luminance(color) + 0.05) >= 3
        assert (luminance(color) + 0.05) / (luminance("#111111") + 0.05) >= 3


def test_a_hover_tells_position_token_and_score():
    text = plot_salience(TOKENS, SCORES).data[-1]
    assert text.hovertext[2] == "position 2 ␣de<br>score +0.5"
    assert text.hovertext[4] == "position 4 ,<br>no score"


def test_the_title_says_what_scores_add_up_to():
    figure = plot_salience(TOKENS, SCORES, quantity="logit of class 1", value=3.214, difference=1.5)
    title = figure.layout.title.text
    assert title == "Salience for logit of class 1: 3.21, +1.5 from the start of the path"
    assert plot_salience(TOKENS, SCORES).layout.title.text == "Salience for the prediction"


def test_scores_of_zero_and_no_tokens_are_no_bars():
    for tokens, scores in ((["a", "b"], [0.0, np.nan]), ([], [])):
        figure = plot_salience(tokens, scores)
        assert [len(bars.x) for bars in figure.data] == [0, 0, len(tokens)]


def test_tokens_and_quantities_are_no_markup():
    assert_harmless(plot_salience([HOSTILE, "a"], [1.0, 2.0], quantity=HOSTILE))
    assert trace(plot_salience(["a"], [1.0]), "raises").showlegend


def test_refusals():
    with pytest.raises(LengthMismatchError, match="2 tokens and 1 scores"):
        plot_salience(["a", "b"], [1.0])
    with pytest.raises(ConfigError, match="width=0 characters"):
        plot_salience(["a"], [1.0], width=0)


def test_tokens_have_room_for_the_distance_that_plotly_keeps_from_the_ends_of_a_bar():
    text = plot_salience(["4", "0", " of"], [1.0, 0.0, 0.0]).data[-1]
    starts, widths = np.array(text.base), np.array(text.x)
    assert (widths > [1.5, 1.5, 3.5]).all(), "the font would shrink to nothing"
    np.testing.assert_allclose(starts + widths / 2, [0.5, 1.5, 3.5])  # where the tokens stand
