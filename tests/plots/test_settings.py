from dataclasses import fields

import numpy as np
import pandas as pd
import pytest

from clvq_lens.errors import DataError
from clvq_lens.evaluation.evaluation import Evaluation
from clvq_lens.plots.settings import _METRICS, plot_settings
from tests.plots.figures import HOSTILE, assert_harmless, axis_titles

RUNS = pd.DataFrame(
    {
        "n_codes": [100, 100, 50, 50],
        "unit": ["raw", "relative", "raw", "relative"],
        "fvu": [0.2, 0.4, 0.5, 0.9],
        "perplexity": [40.0, 60.0, 20.0, 30.0],
        "kl": [None, None, None, None],
    }
)


def test_each_setting_is_a_mean_between_its_least_and_most():
    figure = plot_settings(RUNS, "n_codes")
    fvu, perplexity = figure.data
    assert list(fvu.x) == ["100", "50"], "in the order of the table, and at even distances"
    np.testing.assert_allclose(fvu.y, [0.3, 0.7])
    np.testing.assert_allclose(fvu.error_y.array, [0.1, 0.2])
    np.testing.assert_allclose(fvu.error_y.arrayminus, [0.1, 0.2])
    np.testing.assert_allclose(perplexity.y, [50.0, 25.0])
    np.testing.assert_allclose(fvu.customdata[0], [0.2, 0.4, 2])
    assert figure.layout.xaxis.type == "category"


def test_whiskers_are_not_the_same_up_and_down_where_runs_are_not():
    runs = pd.DataFrame({"top_k": [1, 1, 1], "fvu": [0.0, 0.0, 0.9]})
    [trace] = plot_settings(runs, "top_k").data
    assert trace.error_y.array[0] == pytest.approx(0.6)
    assert trace.error_y.arrayminus[0] == pytest.approx(0.3)


def test_groups_are_told_apart_by_color_and_named_once():
    figure = plot_settings(RUNS, "n_codes", group="unit")
    assert [trace.name for trace in figure.data] == ["raw", "relative"] * 2
    assert [trace.showlegend for trace in figure.data] == [True, True, False, False]
    assert figure.data[0].line.color == figure.data[2].line.color != figure.data[1].line.color
    np.testing.assert_allclose(figure.data[1].y, [0.4, 0.9])


def test_room_for_a_legend_is_left_only_where_there_is_one():
    alone, grouped = plot_settings(RUNS, "n_codes"), plot_settings(RUNS, "n_codes", group="unit")
    assert alone.layout.margin.t < grouped.layout.margin.t
    assert alone.layout.height < grouped.layout.height


def test_only_numbers_are_joined_by_a_line():
    assert plot_settings(RUNS, "n_codes").data[0].mode == "lines+markers"
    assert plot_settings(RUNS, "unit").data[0].mode == "markers"


def test_metrics_can_be_chosen_and_axes_have_names():
    figure = plot_settings(RUNS, "n_codes", metrics={"perplexity": "effective codes"})
    assert axis_titles(figure) == {"xaxis": "n_codes", "yaxis": "effective codes"}


def test_metrics_without_a_number_have_no_panel():
    figure = plot_settings(RUNS, "n_codes", metrics={"kl": "KL", "fvu": "FVU", "other": "?"})
    assert axis_titles(figure)["yaxis"] == "FVU"
    assert len(figure.data) == 1


def test_the_main_metrics_are_those_of_an_evaluation():
    assert set(_METRICS) <= {field.name for field in fields(Evaluation)}


def test_text_is_no_markup():
    runs = pd.DataFrame({HOSTILE: [HOSTILE, "b"], "group": [HOSTILE, "c"], "fvu": [0.1, 0.2]})
    assert_harmless(plot_settings(runs, HOSTILE, group="group"))


def test_a_column_that_is_not_there_is_refused():
    with pytest.raises(DataError, match=r"no column 'top_k'. It has n_codes, unit"):
        plot_settings(RUNS, "top_k")
    with pytest.raises(DataError, match="no column 'color'"):
        plot_settings(RUNS, "n_codes", group="color")


def test_a_table_without_metrics_is_refused():
    with pytest.raises(DataError, match=r"no metric to draw.*Pass metrics="):
        plot_settings(RUNS[["n_codes", "unit", "kl"]], "n_codes")
