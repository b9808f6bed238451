import pandas as pd
import pytest

from clvq_lens.plots.probing_points import plot_probing
from tests.plots.figures import HOSTILE, assert_harmless

METHODS = ["codes", "k-means", "raw", "largest"]


def accuracies(names: list[str], method: str = "codes") -> pd.DataFrame:
    rows = []
    for number, name in enumerate(names):
        for place, each in enumerate([method, *METHODS[1:]]):
            value = 0.9 - 0.1 * place - 0.01 * number
            rows.append((name, each, value, value - 0.05, value + 0.02))
    columns = ["data_set", "method", "accuracy", "accuracy_low", "accuracy_high"]
    return pd.DataFrame(rows, columns=columns)


def drawn(data_sets: pd.DataFrame):
    columns = ["accuracy", "accuracy_low", "accuracy_high"]
    means = data_sets.groupby("method", sort=False)[columns].mean().reset_index()
    return plot_probing(data_sets, means, reference="raw", chance="largest")


def test_means_stand_above_the_data_sets_in_the_order_of_the_table():
    figure = drawn(accuracies(["b", "a"]))
    assert list(figure.layout.yaxis.ticktext) == ["mean of 2 data sets", "b", "a"]
    low, high = figure.layout.yaxis.range
    assert low > high  # the first row is on top
    by_name = {trace.name: trace for trace in figure.data}
    assert list(by_name) == ["largest", "codes", "k-means", "raw"]
    assert list(by_name["codes"].x) == pytest.approx([0.895, 0.9, 0.89])
    assert list(by_name["largest"].x) == pytest.approx([0.595, 0.6, 0.59])


def test_intervals_are_those_of_the_table():
    codes = drawn(accuracies(["b", "a"])).data[1]
    assert codes.error_x.array == pytest.approx([0.02] * 3)
    assert codes.error_x.arrayminus == pytest.approx([0.05] * 3)
    assert codes.customdata[1] == "0.9 [0.85, 0.92]"


def test_no_method_hides_another_and_all_stay_in_their_row():
    figure = drawn(accuracies(["b", "a"]))
    places = [trace.y[1] for trace in figure.data[1:]]
    assert len(set(places)) == 3
    assert all(0.7 < place < 1.3 for place in places)


def test_one_data_set_has_no_mean():
    figure = drawn(accuracies(["only"]))
    assert list(figure.layout.yaxis.ticktext) == ["only"]
    assert len(figure.data[1].x) == 1


def test_activations_step_back_and_every_other_method_has_a_color_of_its_own():
    colors = [trace.marker.color for trace in drawn(accuracies(["b"])).data[1:]]
    assert colors[-1] == "#8a8f98"
    assert len(set(colors)) == 3


def test_what_texts_and_names_hold_stays_text():
    assert_harmless(drawn(accuracies([HOSTILE, "a"], method=HOSTILE)))
