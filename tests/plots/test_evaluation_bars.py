from dataclasses import fields

import numpy as np
import pandas as pd
import pytest

from clvq_lens.errors import DataError
from clvq_lens.evaluation.evaluation import Evaluation
from clvq_lens.plots.evaluation_bars import _PANELS, plot_evaluations
from clvq_lens.stats.estimates import Estimate
from tests.plots.figures import HOSTILE, assert_harmless, axis_titles


def evaluation(scale: float = 1.0, *, n_codes: int = 100, head: bool = True) -> Evaluation:
    def estimate(value: float) -> Estimate:
        return Estimate(value * scale, value * scale - 0.01, value * scale + 0.02)

    def of_head(value: float) -> Estimate | None:
        return estimate(value) if head else None

    return Evaluation(
        n_codes=n_codes,
        n_tokens=1_000,
        n_documents=50,
        fvu=estimate(0.2),
        fvu_median=0.1,
        fvu_random_codes=estimate(1.5),
        fvu_shuffled_memory=None,
        perplexity=40.0 * scale,
        n_dead_codes=7,
        n_outliers=0,
        ce_clean=of_head(2.0),
        ce_spliced=of_head(2.2),
        ce_mean_ablated=of_head(6.0),
        ce_zero_ablated=of_head(8.0),
        ce_loss_recovered=of_head(0.9),
        ce_loss_recovered_zero=of_head(0.95),
        kl=of_head(0.3),
        kl_mean_ablated=of_head(5.0),
    )


@pytest.fixture
def evaluations() -> dict[str, Evaluation]:
    return {"small": evaluation(n_codes=100), "large": evaluation(0.5, n_codes=400)}


def panels(figure) -> dict[str, dict[str, object]]:
    """The two traces of each panel, by the beginning of its axis title."""
    found: dict[str, dict[str, object]] = {}
    for drawn in figure.data:
        title = figure.layout[drawn.xaxis.replace("x", "xaxis")].title.text
        kind = "control" if drawn.legendgroup == "control" else "value"
        found.setdefault(title.split(":")[0].split(",")[0].split("<")[0], {})[kind] = drawn
    return found


def test_every_metric_has_a_panel_with_its_unit_and_control(evaluations):
    titles = axis_titles(plot_evaluations(evaluations))
    assert [text for name, text in titles.items() if name.startswith("x")] == [
        "FVU: 0 perfect,<br>1 the mean<br>control: codes at random",
        "CE loss recovered: 1 no loss,<br>0 as bad as the mean",
        "KL, nats per token<br>control: mean-ablated",
        "perplexity: codes in use<br>control: all codes, equally",
        "dead codes<br>control: size of the codebook",
    ]
    assert {text for name, text in titles.items() if name.startswith("y")} == {"quantizer"}


def test_values_intervals_and_controls_are_those_of_the_evaluations(evaluations):
    found = panels(plot_evaluations(evaluations))
    assert list(found["FVU"]["value"].x) == [0.2, 0.1]
    assert list(found["FVU"]["control"].x) == [1.5, 0.75]
    assert list(found["CE loss recovered"]["value"].x) == [0.9, 0.45]
    assert np.isnan(found["CE loss recovered"]["control"].x).all()
    assert list(found["KL"]["value"].x) == [0.3, 0.15]
    assert list(found["KL"]["control"].x) == [5.0, 2.5]
    assert list(found["perplexity"]["value"].x) == [40, 20]
    assert list(found["perplexity"]["control"].x) == [100, 400]
    assert list(found["dead codes"]["value"].x) == [7, 7]
    np.testing.assert_allclose(found["FVU"]["value"].error_x.array, 0.02)
    np.testing.assert_allclose(found["FVU"]["value"].error_x.arrayminus, 0.01)


def test_counts_of_codes_are_told_as_shares_too(evaluations):
    found = panels(plot_evaluations(evaluations))
    assert list(found["perplexity"]["value"].text) == ["40 (40%)", "20 (5%)"]
    assert list(found["dead codes"]["value"].text) == ["7 (7%)", "7 (2%)"]
    assert list(found["FVU"]["value"].text) == ["0.2", "0.1"]


def test_a_table_does_as_well_but_knows_no_size_of_the_codebook(evaluations):
    tables = {name: each.frame() for name, each in evaluations.items()}
    found = panels(plot_evaluations(tables))
    assert list(found["FVU"]["control"].x) == [1.5, 0.75]
    assert list(found["perplexity"]["value"].text) == ["40", "20"]
    assert np.isnan(found["perplexity"]["control"].x).all()
    assert "control" not in axis_titles(plot_evaluations(tables))["xaxis4"]


def test_metrics_that_no_evaluation_has_are_left_out_and_missing_ones_are_gaps():
    headless = evaluation(head=False)
    assert set(panels(plot_evaluations({"a": headless}))) == {"FVU", "perplexity", "dead codes"}
    found = panels(plot_evaluations({"a": headless, "b": evaluation()}))
    np.testing.assert_array_equal(found["KL"]["value"].x, [np.nan, 0.3])
    assert list(found["KL"]["value"].text) == ["", "0.3"]


def test_names_stand_at_one_axis_in_their_order(evaluations):
    axis = plot_evaluations({**evaluations, "x" * 60: evaluation()}).layout.yaxis
    assert list(axis.ticktext) == ["small", "large", "x" * 23 + "\u2026"]
    assert axis.range[0] > axis.range[1]  # the first one on top


def test_more_quantizers_make_a_higher_figure(evaluations):
    many = {str(index): evaluation() for index in range(12)}
    assert plot_evaluations(many).layout.height > plot_evaluations(evaluations).layout.height + 300


def test_the_legend_names_each_kind_of_mark_once(evaluations):
    shown = [drawn.name for drawn in plot_evaluations(evaluations).data if drawn.showlegend]
    assert shown == ["its control", "quantizer, 95 % interval over documents"]


def test_the_row_of_the_first_quantizer_is_not_drawn_as_an_axis(evaluations):
    assert plot_evaluations(evaluations).layout.yaxis.zeroline is False


def test_names_are_no_markup():
    assert_harmless(plot_evaluations({HOSTILE: evaluation(), "b": evaluation()}))


def test_nothing_to_compare_is_refused():
    with pytest.raises(DataError, match="no evaluation to compare"):
        plot_evaluations({})
    table = pd.DataFrame({"metric": ["other"], "value": [1.0], "low": [0.0], "high": [2.0]})
    with pytest.raises(DataError, match="no metric to draw"):
        plot_evaluations({"a": table})


def test_metrics_and_controls_are_those_of_an_evaluation():
    """A metric that is renamed there would silently lose its panel here."""
    known = {field.name for field in fields(Evaluation)}
    for panel in _PANELS:
        assert panel.metric in known
        assert panel.control is None or panel.control in known


def test_one_metric_is_enough():
    table = pd.DataFrame({"metric": ["fvu"], "value": [0.5], "low": [np.nan], "high": [np.nan]})
    assert set(panels(plot_evaluations({"a": table}))) == {"FVU"}
