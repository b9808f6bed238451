import pandas as pd
import pytest

from clvq_lens.errors import DataError
from clvq_lens.plots.faithfulness import plot_faithfulness
from tests.plots.figures import HOSTILE, assert_harmless


@pytest.fixture
def conditions() -> pd.DataFrame:
    rows = [("probe", "", "unperturbed", 0.0)]
    rows += [("probe", "raw", "concept", 0.4), ("probe", "raw", "random code", 0.1)]
    rows += [("model", "code", "concept", 0.3), ("model", "code", HOSTILE, 0.0)]
    frame = pd.DataFrame(rows, columns=["place", "ablation", "condition", "drop"])
    return frame.assign(drop_low=frame["drop"] - 0.05, drop_high=frame["drop"] + 0.1, accuracy=0.7)


def test_a_panel_for_each_place_and_ablation_without_the_unperturbed_row(conditions):
    figure = plot_faithfulness(conditions)
    assert [list(trace.x) for trace in figure.data] == [[0.4, 0.1], [0.3, 0.0]]
    assert figure.data[0].error_x.array == pytest.approx([0.1, 0.1])
    assert figure.data[0].error_x.arrayminus == pytest.approx([0.05, 0.05])


def test_the_concept_is_told_from_its_controls(conditions):
    colours = plot_faithfulness(conditions).data[0].marker.color
    assert colours[0] != colours[1]


def test_names_cannot_break_out(conditions):
    assert_harmless(plot_faithfulness(conditions, protocol=HOSTILE))


def test_a_table_without_a_removal_is_refused(conditions):
    with pytest.raises(DataError, match="No row tells of a removal"):
        plot_faithfulness(conditions.iloc[:1])
