import numpy as np
import pandas as pd

from clvq_lens.evaluation.recovery import Recovered, Recovery
from clvq_lens.plots.evaluation_panels import plot_cross_entropy, plot_recovery
from clvq_lens.plots.theme import TEXT
from tests.plots.figures import HOSTILE, assert_harmless, axis_titles, trace
from tests.plots.test_evaluation_bars import evaluation


def test_each_cross_entropy_is_a_bar_with_its_interval():
    figure = plot_cross_entropy(evaluation())
    [bars] = figure.data
    assert list(bars.x) == [2.0, 2.2, 6.0, 8.0]
    assert bars.y[:2] == ("model as it is", "target := reconstruction")
    np.testing.assert_allclose(bars.error_x.array, 0.02)
    np.testing.assert_allclose(bars.error_x.arrayminus, 0.01)
    assert bars.error_x.color == TEXT  # the default is black, which dark pages swallow
    assert "nats per token<br>(95 % interval" in axis_titles(figure)["xaxis"]


def test_a_table_gives_the_same_bars_as_its_evaluation():
    assert plot_cross_entropy(evaluation().frame()) == plot_cross_entropy(evaluation())


def test_a_new_cross_entropy_is_drawn_under_its_own_name():
    frame = evaluation().frame().replace("ce_zero_ablated", "ce_resampled")
    [bars] = plot_cross_entropy(frame).data
    assert bars.y[-1] == "ce_resampled"


def test_a_model_without_a_head_has_no_bars():
    assert len(plot_cross_entropy(evaluation(head=False)).data[0].x) == 0


ROWS = [
    Recovered("codes", "all", 90, 0.6, 0.7, 0.8),
    Recovered("codes, labels shuffled", "all", 90, 0.0, 0.1, 0.2),
    Recovered("codes", "ambiguous", 40, 0.5, 0.6, 0.65),
    Recovered("codes, labels shuffled", "ambiguous", 40, 0.0, 0.05, 0.15),
]


def test_recovery_stands_beside_its_control():
    figure = plot_recovery(Recovery(tuple(ROWS)))
    assert len(figure.data) == 4
    nmi = trace(figure, "NMI, ambiguous tokens")
    assert list(nmi.x) == ["codes", "codes, labels shuffled"]
    assert list(nmi.y) == [0.6, 0.05]
    assert list(trace(figure, "purity, all tokens").y) == [0.8, 0.2]
    assert axis_titles(figure)["yaxis"] == "agreement with the true concepts (0 to 1)"


def test_names_of_methods_are_no_markup():
    frame = pd.DataFrame(
        {"method": [HOSTILE], "tokens": ["all"], "n_tokens": [1], "nmi": [0.5], "purity": [0.5]}
    )
    assert_harmless(plot_recovery(frame))
