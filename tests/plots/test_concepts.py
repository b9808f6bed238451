import numpy as np
import pandas as pd
import pytest

from clvq_lens.plots.concepts import plot_concepts, plot_usage
from clvq_lens.plots.theme import FAINT
from tests.plots.figures import HOSTILE, assert_harmless, axis_titles, trace


def test_shares_fall_from_the_most_used_code_and_uniform_use_stands_beside():
    figure = plot_usage(np.array([10, 60, 0, 30]))
    codes = trace(figure, "codes in use (3)")
    assert list(codes.x) == [1, 2, 3]
    np.testing.assert_allclose(codes.y, [0.6, 0.3, 0.1])
    np.testing.assert_array_equal(codes.customdata, [[1, 60], [3, 30], [0, 10]])
    uniform = trace(figure, "uniform use (1/4)")
    assert (list(uniform.x), list(uniform.y)) == ([1, 4], [0.25, 0.25])


def test_dead_codes_are_counted_in_the_picture():
    figure = plot_usage(np.array([10, 60, 0, 30]))
    [note] = figure.layout.annotations
    assert note.text == "1 dead code:<br>none of 100 tokens"
    [band] = figure.layout.shapes
    assert (band.x0, band.x1) == (3.5, 4.5)
    several = plot_usage(np.array([0, 7, 0, 0])).layout.annotations[0]
    assert several.text == "3 dead codes:<br>none of 7 tokens"


def test_without_dead_codes_there_is_no_band():
    figure = plot_usage(np.array([1, 2]))
    assert not figure.layout.shapes
    assert not figure.layout.annotations


def test_the_axes_of_usage_have_units():
    assert axis_titles(plot_usage(np.array([1, 2]))) == {
        "xaxis": "rank of the code by usage",
        "yaxis": "share of tokens (log scale)",
    }


@pytest.mark.parametrize(("usage", "dtick"), [([1, 400], "D2"), ([1, 100_000], 1)])
def test_ticks_of_the_log_scale_do_not_crowd(usage, dtick):
    assert plot_usage(np.array(usage)).layout.yaxis.dtick == dtick


@pytest.mark.parametrize("usage", [[], [0], [0, 0], [5]])
def test_little_usage_is_drawn(usage):
    figure = plot_usage(np.array(usage, dtype=int))
    assert len(trace(figure, "codes in use").x) == np.count_nonzero(usage)


def table(**changes: list) -> pd.DataFrame:
    columns = {"code": [17, 3], "usage": [30, 10], "share": [0.75, 0.25]}
    texts = {"tokens": ["sea ocean", "the"], "example": [" the[ sea]", "[The] sun"]}
    return pd.DataFrame({**columns, **texts, **changes})


def test_the_table_has_a_row_for_each_code():
    cells = plot_concepts(table()).data[0].cells.values
    assert [list(column) for column in cells] == [
        [17, 3],
        [30, 10],
        ["75.00%", "25.00%"],
        ["sea ocean", "the"],
        ["the[ sea]", "[The] sun"],
    ]


def test_the_text_of_the_table_is_no_markup():
    assert_harmless(plot_concepts(table(tokens=[HOSTILE, "a"], example=["b", HOSTILE])))


def test_white_space_in_the_table_can_be_seen():
    rows = table(tokens=["  ", " the\n \tThe"], example=["a[\n]", ""])
    cells = plot_concepts(rows).data[0].cells.values
    assert list(cells[3]) == ["\u2423\u2423", "the\u21b5 \u21e5The"]
    assert list(cells[4]) == ["a[\u21b5]", ""]


def test_the_lines_of_the_table_show_on_light_and_on_dark_pages():
    [drawn] = plot_concepts(table()).data
    assert drawn.cells.line.color == drawn.header.line.color == FAINT
