"""The picture of one text."""

import numpy as np
import pandas as pd

from clvq_lens.plots.colors import color_of
from clvq_lens.plots.sentence_grid import plot_sentence
from clvq_lens.plots.theme import LOWERS, RAISES, TEXT, translucent
from tests.plots.figures import trace


def frame_of(n_tokens=3, **columns):
    return pd.DataFrame(
        {
            "quantizer": ["0-1"] * n_tokens + ["1-2"] * n_tokens,
            "position": [*range(n_tokens)] * 2,
            "token": [f" t{n}" for n in range(n_tokens)] * 2,
            "code": [-1, *range(1, n_tokens)] * 2,
            **columns,
        }
    )


EFFECTS = {"effect": [np.nan, 0.25, -0.5] * 2, "control": [np.nan, 0.125, 0.0] * 2}


def test_tokens_stand_in_lines_and_special_ones_have_no_cell():
    figure = plot_sentence(frame_of())
    tokens, upper, lower = figure.data
    assert tokens.text == ("t0", "t1", "t2")
    assert (upper.name, lower.name) == ("1-2", "0-1")  # the deepest on top
    assert lower.text == upper.text == ("1", "2")
    assert lower.base == tokens.base[1:]
    assert max(tokens.y) < min(upper.y) < min(lower.y)  # downwards
    assert figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1]
    assert figure.layout.yaxis.ticktext == ("1-2", "0-1")


def test_a_figure_is_as_tall_as_its_lines_and_lanes():
    one, with_effects = plot_sentence(frame_of()), plot_sentence(frame_of(**EFFECTS))
    long = plot_sentence(frame_of(60))
    n_lines = len(long.layout.yaxis.tickvals) // 2
    height = one.layout.yaxis.range[0]
    assert one.layout.height == 72 + height
    assert one.layout.height < 200
    assert n_lines > 3
    assert long.layout.yaxis.range[0] == n_lines * height + (n_lines - 1) * 16
    assert with_effects.layout.height > one.layout.height


def test_a_code_has_its_color_at_every_quantizer():
    colors = {"0-1": [f"#0000{code:02x}" for code in range(16)]}
    figure = plot_sentence(frame_of(code=[-1, 3, 15, 4, 5, 3]), colors=colors)
    assert list(trace(figure, "0-1").marker.color) == ["#000003", "#00000f"]
    assert trace(figure, "1-2").marker.color[2] == color_of(3, None)


def test_effects_are_drawn_beside_those_of_other_codes():
    figure = plot_sentence(frame_of(**EFFECTS), metric="KL")
    rises = trace(figure, "raised by ablating it: KL")
    falls = trace(figure, "lowered by ablating it: KL")
    assert list(rises.width) == [17 * 0.5] * 2  # pixels: half of a lane is the largest effect
    assert list(falls.width) == [17.0] * 2
    assert rises.y[0] < falls.y[0]  # up and down from the same line
    controls = trace(figure, "by ablating other codes near")
    assert [x for x in controls.x if x is not None][:2] == [6, 11.8]
    assert rises.showlegend
    assert falls.showlegend


def test_lines_of_controls_show_on_the_bars_that_they_cross():
    """Text and full colors are about equally light; half of a color is lighter, or darker."""
    figure = plot_sentence(frame_of(**EFFECTS), metric="KL")
    assert trace(figure, "raised").marker.color == translucent(RAISES, 0.5)
    assert trace(figure, "lowered").marker.color == translucent(LOWERS, 0.5)
    assert trace(figure, "by ablating other").line.color == TEXT


def test_effects_that_are_all_positive_stand_on_the_bottom_of_their_lane():
    effects = {"effect": [np.nan, 0.25, 0.5] * 2, "control": [np.nan, 0.125, 0.0] * 2}
    figure = plot_sentence(frame_of(**effects), metric="KL")
    bars = trace(figure, "raised")
    assert list(bars.width) == [17.0, 34.0] * 2
    bottoms = [middle + height / 2 for middle, height in zip(bars.y, bars.width, strict=True)]
    assert len(set(bottoms)) == 2  # one of each quantizer


def test_cells_name_their_concept_and_hovers_tell_all():
    frame = frame_of(name=["", "good food", "x"] * 2, **EFFECTS)
    upper = trace(plot_sentence(frame, metric="KL"), "1-2")
    assert upper.text[0] == "1<br>good"
    assert upper.hovertext[0] == (
        "<b>1-2: code 1 good food</b><br>position 1, token \u2423t1"
        "<br>ablated here: KL changes by +0.25<br>other codes near here: +0.125"
    )


def test_text_from_data_is_not_read_as_markup():
    frame = frame_of(token=["<b>", "<i>$x$", "t"] * 2, name=["", "<script>", "x"] * 2)
    figure = plot_sentence(frame.assign(**EFFECTS), metric="<u>")
    shown = figure.to_json().replace("\\u003c", "<")
    assert "<script" not in shown
    assert "<i>" not in shown
    assert "<u>" not in shown


def test_a_concept_of_white_space_is_seen():
    figure = plot_sentence(frame_of(name=["", "\n", " "] * 2))
    assert figure.data[1].text == ("1<br>\u21b5", "2<br>\u2423")
