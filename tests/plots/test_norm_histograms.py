import numpy as np

from clvq_lens.evaluation.norms import Norms, PointNorms
from clvq_lens.plots.norm_histograms import plot_norms
from tests.plots.figures import HOSTILE, assert_harmless, axis_titles, trace


def norms(*, most: int = 9) -> Norms:
    edges = (1.0, 4.0, 16.0, 64.0)
    return Norms(
        source=PointNorms("source", 3.0, 30.0, edges, (2, 0, most)),
        target=PointNorms("target", 3.0, float("inf"), edges, (1, 5, 4)),
    )


def test_each_point_is_a_line_through_the_middles_of_its_bins():
    source = trace(plot_norms(norms()), "at the source")
    np.testing.assert_allclose(source.x, [2, 8, 32])  # geometric: the axis is logarithmic
    np.testing.assert_array_equal(source.y, [2, np.nan, 9])
    np.testing.assert_array_equal(source.customdata[1], [4, 16])


def test_a_gap_is_left_where_a_bin_is_empty():
    """Zero has no place on a logarithmic axis, and a line across it would tell of tokens."""
    source = trace(plot_norms(norms()), "at the source")
    assert np.isnan(source.y[1])
    assert source.connectgaps is None


def test_the_limit_is_marked_where_there_is_one():
    figure = plot_norms(norms())
    [line] = figure.layout.shapes
    assert line.x0 == line.x1 == 30
    assert line.line.color == trace(figure, "at the source").line.color
    assert "dashed" in axis_titles(figure)["xaxis"]
    unlimited = norms().frame().assign(limit=float("inf"))
    assert axis_titles(plot_norms(unlimited))["xaxis"] == "norm of the activation"


def test_axes_are_logarithmic_and_their_ticks_do_not_crowd():
    figure = plot_norms(norms())
    assert figure.layout.xaxis.type == figure.layout.yaxis.type == "log"
    assert figure.layout.yaxis.dtick == figure.layout.xaxis.dtick == "D2"
    assert plot_norms(norms(most=10_000)).layout.yaxis.dtick == 1
    assert axis_titles(figure)["yaxis"] == "tokens"


def test_a_table_does_as_well():
    assert plot_norms(norms().frame()) == plot_norms(norms())


def test_names_of_points_are_no_markup():
    assert_harmless(plot_norms(norms().frame().replace("source", HOSTILE)))
