import pandas as pd
import pytest

from clvq_lens.plots.alignment_panels import plot_alignment
from tests.plots.figures import HOSTILE, assert_harmless, axis_titles


@pytest.fixture
def curve() -> pd.DataFrame:
    frame = pd.DataFrame(
        {"method": ["codes"] * 2 + ["token identity"] * 2, "threshold": [0.8, 0.9] * 2}
    )
    for number, metric in enumerate(("codes_aligned", "tokens_covered", "labels_found")):
        frame[metric] = [0.5 + number / 10, 0.4, 0.3, 0.2]
        frame[f"{metric}_shuffled"] = 0.05
    return frame


@pytest.fixture
def labels() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "method": ["codes"] * 2 + ["token identity"] * 2,
            "label": ["NOUN", "VERB"] * 2,
            "n_tokens": [90, 40] * 2,
            "n_codes": [7, 0, 9, 2],
            "covered": [0.6, 0.0, 0.5, 0.1],
        }
    )


def test_every_axis_says_what_it_shows(curve, labels):
    figure = plot_alignment(curve, labels, threshold=0.9)
    panels = [annotation.text for annotation in figure.layout.annotations]
    assert panels == ["codes aligned", "tokens in aligned codes", "labels with a code"]
    titles = axis_titles(figure)
    assert titles["yaxis"] == "fraction"
    assert titles["yaxis4"] == "part of its tokens in codes<br>aligned at 0.9 (how many)"
    assert titles["xaxis3"] == "threshold"


def test_curves_controls_and_bars_are_those_of_the_tables(curve, labels):
    figure = plot_alignment(curve, labels, threshold=0.9)
    codes = [trace for trace in figure.data if trace.legendgroup == "codes"]
    assert [list(trace.y) for trace in codes] == [[0.5, 0.4], [0.6, 0.4], [0.7, 0.4], [0.6, 0.0]]
    assert list(codes[3].text) == ["7", ""]
    controls = [trace for trace in figure.data if trace.legendgroup == "shuffled"]
    assert len(controls) == 6
    assert list(controls[0].y) == [0.05, 0.05]


def test_the_legend_names_each_method_once_and_the_control_once(curve, labels):
    figure = plot_alignment(curve, labels, threshold=0.9)
    shown = [trace.name for trace in figure.data if trace.showlegend]
    assert shown == ["codes", "labels shuffled", "token identity"]


def test_only_the_commonest_labels_are_drawn(curve, labels):
    many = pd.concat([labels.assign(label=f"L{number}") for number in range(30)])
    figure = plot_alignment(curve, many, threshold=0.9)
    assert len(figure.layout.xaxis4.tickvals) == 20


@pytest.mark.parametrize(("n_labels", "counted"), [(10, True), (11, False)])
def test_bars_too_narrow_for_a_number_have_it_in_their_hover_alone(
    curve, labels, n_labels, counted
):
    many = pd.concat([labels.assign(label=f"L{number}") for number in range(n_labels)])
    figure = plot_alignment(curve, many, threshold=0.9)
    bars = [trace for trace in figure.data if trace.type == "bar"]
    assert [bar.text is not None for bar in bars] == [counted] * 2
    assert all("customdata[1]" in bar.hovertemplate for bar in bars)
    assert ("how many" in axis_titles(figure)["yaxis4"]) == counted


def test_names_are_no_markup(curve, labels):
    curve["method"] = labels["method"] = [HOSTILE] * 4
    labels["label"] = HOSTILE
    assert_harmless(plot_alignment(curve, labels, threshold=0.9))
