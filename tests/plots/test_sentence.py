"""The picture of one text."""

import numpy as np
import pandas as pd

from clvq_lens.plots.sentence import plot_sentence
from clvq_lens.plots.theme import CONCEPT_COLOURS


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


def test_tokens_go_across_quantizers_up_and_special_tokens_are_left_empty():
    figure = plot_sentence(frame_of())
    cells = figure.data[0]
    assert np.isnan(cells.z[0][0])
    assert cells.z[1][1:].tolist() == [1, 2]
    assert figure.layout.xaxis.title.text == "token"
    assert figure.layout.yaxis.title.text == "quantizer"
    assert figure.layout.xaxis.ticktext[1] == "\u2423t1"
    assert list(figure.layout.yaxis.ticktext) == ["0-1", "1-2"]
    assert figure.data[1].text[:3] == ("", "1", "2")


def test_a_code_has_the_same_colour_wherever_it_stands():
    cells = plot_sentence(frame_of(code=[-1, 3, 15, 4, 5, 3])).data[0]
    assert cells.z[0][1] == cells.z[0][2] == cells.z[1][2] == 3  # twelve colours go round
    colours = [colour for _, colour in cells.colorscale]
    assert colours[::2] == list(CONCEPT_COLOURS)


def test_cells_name_their_concept_and_effects_are_on_hover():
    effects = {"effect": [np.nan, 0.25, -0.5] * 2, "control": [np.nan, 0.125, 0.0] * 2}
    frame = frame_of(label=["", "good food", "x"] * 2, **effects)
    figure = plot_sentence(frame, metric="KL")
    assert figure.data[1].text[1] == "1<br>good<br>food"
    assert figure.data[0].customdata[1][1] == (
        "<b>1-2: code 1 good food</b><br>position 1, token \u2423t1"
        "<br>ablated here: KL changes by +0.25<br>a random code here: +0.125"
    )
    assert "here" not in figure.data[0].customdata[0][0]


def test_names_are_left_out_where_there_is_no_room_and_then_the_codes():
    labels = ["some name"] * 40
    assert plot_sentence(frame_of(20, label=labels)).data[1].text[1].startswith("1<br>some")
    assert plot_sentence(frame_of(45, label=["some name"] * 90)).data[1].text[1] == "1"
    assert len(plot_sentence(frame_of(200)).data) == 1


def test_text_from_data_is_not_read_as_markup():
    frame = frame_of(token=["<b>", "<i>$x$", "t"] * 2, label=["", "<script>", "x"] * 2)
    figure = plot_sentence(frame, metric="<u>")
    shown = figure.to_json().replace("\\u003c", "<")
    assert "<script" not in shown
    assert "<i>" not in shown
    assert "<u>" not in shown


def test_a_concept_of_white_space_is_seen():
    figure = plot_sentence(frame_of(label=["", "\n", " "] * 2))
    assert figure.data[1].text[1:3] == ("1<br>\u21b5", "2<br>\u2423")
