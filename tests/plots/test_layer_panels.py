import pandas as pd
import pytest

from clvq_lens.plots.layer_panels import plot_collapse
from tests.plots.figures import HOSTILE, assert_harmless, axis_titles

CHANCE = "codes, shuffled"
METHODS = ("codes", "k-means of all layers", CHANCE)
LAYERS = ("blocks.1.hook_resid_post", "blocks.2.hook_resid_post", "blocks.3.hook_resid_mid")


@pytest.fixture
def frame() -> pd.DataFrame:
    rows = [
        {
            **{"method": method, "layer": layer, "clusters_per_code": 2.0 + m},
            **{"ami": 0.5 - 0.2 * m, "ami_low": 0.05, "ami_high": 0.7, "fvu": 0.3},
            **{"fvu_low": 0.2, "fvu_high": 0.5, "own_needed": 100.0 + l, "beyond": l == 2},
        }
        for m, method in enumerate(METHODS)
        for l, layer in enumerate(LAYERS)  # noqa: E741
    ]
    return pd.DataFrame(rows)


def test_every_panel_says_what_is_best(frame):
    titles = axis_titles(plot_collapse(frame, chance=CHANCE))
    assert titles["yaxis"] == "AMI with the layer's own clusters:<br>1 the same, 0 chance"
    assert titles["yaxis4"] == "own clusters that reach<br>the same FVU"
    assert titles["xaxis3"] == "layer (residual stream after that block)"


def test_values_and_intervals_are_those_of_the_table(frame):
    figure = plot_collapse(frame, chance=CHANCE)
    codes = [trace for trace in figure.data if trace.name == "codes"]
    assert [list(trace.y) for trace in codes] == [
        [0.5] * 3,
        [2.0] * 3,
        [0.3] * 3,
        [100.0, 101.0, 102.0],
    ]
    assert codes[0].error_y.array == pytest.approx([0.2] * 3)
    assert codes[2].error_y.arrayminus == pytest.approx([0.1] * 3)
    assert codes[1].error_y.array is None


def test_chance_is_told_in_words_in_every_panel(frame):
    figure = plot_collapse(frame, chance=CHANCE)
    assert "codes, shuffled" not in {trace.name for trace in figure.data}
    texts = [note.text for note in figure.layout.annotations]
    assert texts == [f"codes shuffled: {value}" for value in ("0.1", "4", "0.3", "101")]


def test_without_chance_nothing_is_told_of_it(frame):
    figure = plot_collapse(frame[frame["method"] != CHANCE], chance=CHANCE)
    assert not figure.layout.annotations
    assert len(figure.data) == 2 * 4


def test_a_number_of_clusters_that_was_not_reached_says_so(frame):
    figure = plot_collapse(frame, chance=CHANCE)
    trace = [trace for trace in figure.data if trace.name == "codes"][3]
    assert [bound for _, bound in trace.customdata] == ["", "", "more than "]


def test_layers_are_named_by_their_block_or_in_full(frame):
    figure = plot_collapse(frame, chance=CHANCE)
    assert list(figure.layout.xaxis3.ticktext) == ["1", "2", "blocks.3.hook_resid_mid"]


def test_names_are_no_markup(frame):
    frame["method"] = frame["method"].replace("codes", HOSTILE)
    frame["layer"] = frame["layer"].replace(LAYERS[0], HOSTILE)
    assert_harmless(plot_collapse(frame, chance=CHANCE))
