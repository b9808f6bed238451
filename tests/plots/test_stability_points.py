import pandas as pd
import pytest

from clvq_lens.plots.stability_points import plot_stability
from tests.plots.figures import HOSTILE, assert_harmless, axis_titles


@pytest.fixture
def methods() -> pd.DataFrame:
    frame = pd.DataFrame({"method": ["codes", "k-means"], "n_fits": [3, 2], "n_pairs": [2, 1]})
    for metric, values in (("ami", [0.5, 0.7]), ("matched", [0.4, 0.6])):
        frame[metric] = values
        frame[f"{metric}_low"] = frame[metric] - 0.1
        frame[f"{metric}_high"] = frame[metric] + 0.2
        frame[f"{metric}_shuffled"] = 0.01
    return frame.assign(cosine=[0.8, float("nan")], cosine_shuffled=[-0.3, float("nan")])


@pytest.fixture
def pairs() -> pd.DataFrame:
    frame = pd.DataFrame(
        {"method": ["codes", "codes", "k-means"], "first": [0, 1, 0], "second": [1, 2, 1]}
    )
    for metric in ("ami", "matched"):
        frame[metric] = [0.4, 0.6, 0.7]
        frame[f"{metric}_shuffled"] = 0.01
    return frame.assign(cosine=[0.7, 0.9, float("nan")], cosine_shuffled=[-0.3, 0.1, float("nan")])


def drawn(figure, group: str) -> list:
    return [trace for trace in figure.data if trace.legendgroup == group]


def test_each_metric_has_a_panel_that_says_what_is_best_and_what_chance_is(methods, pairs):
    titles = axis_titles(plot_stability(methods, pairs))
    assert titles["xaxis"] == "adjusted mutual information:<br>1 the same partition, 0 chance"
    assert len([name for name in titles if name.startswith("x")]) == 3
    assert titles["yaxis"] == "method"


def test_means_intervals_pairs_and_controls_are_those_of_the_tables(methods, pairs):
    figure = plot_stability(methods, pairs)
    mean, matched, cosine = drawn(figure, "mean")
    assert list(mean.x) == [0.5, 0.7]
    assert list(matched.x) == [0.4, 0.6]
    assert mean.error_x.array == pytest.approx([0.2, 0.2])
    assert mean.error_x.arrayminus == pytest.approx([0.1, 0.1])
    assert cosine.error_x.array is None
    assert list(drawn(figure, "pair")[0].x) == [0.4, 0.6, 0.7]
    assert list(drawn(figure, "control")[1].x) == [0.01, 0.01]


def test_a_pair_stands_in_the_row_of_its_method(methods, pairs):
    figure = plot_stability(methods, pairs)
    assert list(drawn(figure, "mean")[0].y) == [0, 1]
    assert [round(y) for y in drawn(figure, "pair")[0].y] == [0, 0, 1]


def test_what_lies_below_zero_is_inside(methods, pairs):
    figure = plot_stability(methods, pairs)
    assert figure.layout.xaxis3.range[0] < -0.3
    assert figure.layout.xaxis.range[0] > -0.1


def test_names_are_no_markup(methods, pairs):
    methods["method"] = methods["method"].replace("codes", HOSTILE)
    pairs["method"] = pairs["method"].replace("codes", HOSTILE)
    assert_harmless(plot_stability(methods, pairs))
