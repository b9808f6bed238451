import pandas as pd
import pytest

from clvq_lens.errors import DataError
from clvq_lens.plots.comparison_panels import plot_comparison
from tests.plots.figures import HOSTILE, assert_harmless

METRICS = {
    "stability": ("stability", "0 chance"),
    "fvu": ("FVU", "0 perfect, 1 the mean"),
    "model_drop": ("drop in the model", "probability"),
}


@pytest.fixture
def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "method": ["CLVQ", HOSTILE],
            **{"fvu": [0.2, 0.3], "fvu_low": [0.1, 0.25], "fvu_high": [0.25, 0.4]},
            **{"stability": [float("nan")] * 2, "stability_low": 0.0, "stability_high": 0.0},
        }
    )


def test_metrics_that_nobody_measured_have_no_panel(frame):
    figure = plot_comparison(frame, METRICS)
    assert len(figure.data) == 1
    assert figure.data[0].error_x.array == pytest.approx([0.05, 0.1])
    assert figure.data[0].error_x.arrayminus == pytest.approx([0.1, 0.05])


def test_titles_meanings_and_the_order_of_panels_are_the_callers(frame):
    row = {"model_drop": 0.1, "model_drop_low": 0.0, "model_drop_high": 0.2}
    figure = plot_comparison(frame.assign(**row), dict(reversed(METRICS.items())))
    assert [note.text for note in figure.layout.annotations] == ["drop in the model", "FVU"]
    assert figure.layout.xaxis.title.text == "probability"
    assert figure.layout.xaxis2.title.text == "0 perfect, 1 the mean"


def test_the_first_method_is_told_from_the_others(frame):
    again = frame.iloc[:1].assign(decoder="transformer")
    rows = pd.concat([frame.assign(decoder="table"), again], ignore_index=True)
    colors = plot_comparison(rows, METRICS).data[0].marker.color
    assert colors[0] == colors[2] != colors[1]


def test_drops_that_are_next_to_nothing_are_not_blown_up():
    row = {"method": "a", "model_drop": 1e-5, "model_drop_low": -1e-5, "model_drop_high": 2e-5}
    low, high = plot_comparison(pd.DataFrame([row]), METRICS).layout.xaxis.range
    assert low < -0.01
    assert high > 0.05


def test_counts_that_are_zero_everywhere_are_not_drawn_between_minus_one_and_one():
    metrics = {"n_dead_codes": ("dead codes", ""), "ami": ("AMI", "")}
    row = {"method": "a", "n_dead_codes": 0, "n_dead_codes_low": 0, "n_dead_codes_high": 0}
    row |= {"ami": -0.1, "ami_low": -0.2, "ami_high": 0.1}
    layout = plot_comparison(pd.DataFrame([row]), metrics).layout
    assert layout.xaxis.rangemode == "nonnegative"
    assert layout.xaxis2.rangemode is None


def test_names_cannot_break_out(frame):
    assert_harmless(plot_comparison(frame, METRICS))


def test_a_table_without_metrics_is_refused(frame):
    with pytest.raises(DataError, match="The table holds no metric to draw"):
        plot_comparison(frame[["method"]], METRICS)


def test_drops_without_an_interval_are_drawn_all_the_same():
    unknown = {"model_drop_low": float("nan"), "model_drop_high": float("nan")}
    figure = plot_comparison(pd.DataFrame([{"method": "a", "model_drop": 0.3, **unknown}]), METRICS)
    assert figure.layout.xaxis.range[1] > 0.3
    assert figure.data[0].customdata == ("0.3 (no interval)",)


def test_decoders_are_named_where_a_method_has_several_and_never_cut():
    long = "k-means of something with a long name"
    rows = [("a", "table"), (long, "table"), (long, "transformer"), ("bound", "none")]
    frame = pd.DataFrame(rows, columns=["method", "decoder"])
    figure = plot_comparison(frame.assign(fvu=0.1, fvu_low=0.0, fvu_high=0.2), METRICS)
    names = list(figure.layout.yaxis.ticktext)
    assert [names[0], names[3]] == ["a", "bound"]
    assert names[1].endswith("\u2026, table")
    assert names[2].endswith("\u2026, transformer")
    assert figure.data[0].text[2] == f"{long}, transformer"
