import pandas as pd
import pytest

from clvq_lens.plots.concordance_points import plot_concordance
from clvq_lens.plots.theme import BLUE, CONTROL_MARK
from tests.plots.figures import HOSTILE, assert_harmless, axis_titles, trace


def table(name: str = "own") -> pd.DataFrame:
    columns = {"names": [name, "of another code"], "kendall_w": [0.7, 0.4], "p": [0.001, 0.3]}
    null = {"null_mean": [0.33, 0.34], "null_low": [0.2, 0.21], "null_high": [0.5, 0.52]}
    return pd.DataFrame({**columns, **null})


def test_w_stands_beside_its_null():
    figure = plot_concordance(table())
    w, null = trace(figure, "Kendall's W"), trace(figure, "scores shuffled")
    assert list(w.y) == list(null.y) == ["own", "of another code"]
    assert list(w.x) == [0.7, 0.4]
    assert list(null.x) == [0.33, 0.34]
    assert list(null.error_x.array) == pytest.approx([0.17, 0.18])
    assert list(null.error_x.arrayminus) == pytest.approx([0.13, 0.13])
    assert w.marker.color == BLUE
    assert null.marker.color == CONTROL_MARK["color"]
    assert figure.data[-1] is w  # over its null
    assert [(label.x, label.y, label.text) for label in figure.layout.annotations] == [
        (0.7, "own", "0.7"), (0.4, "of another code", "0.4"),
    ]  # fmt: skip


def test_where_there_is_no_w_it_says_why():
    frame = table()
    frame.loc[1, ["kendall_w", "p", "null_mean", "null_low", "null_high"]] = float("nan")
    own, other = plot_concordance(frame).layout.annotations
    assert own.text == "0.7"
    assert (other.y, other.text) == ("of another code", "no judge tells codes apart")


def test_the_axis_says_what_one_means():
    assert axis_titles(plot_concordance(table()))["xaxis"].startswith("Kendall's W: 1 the same")


def test_names_are_no_markup():
    assert_harmless(plot_concordance(table(HOSTILE)))
