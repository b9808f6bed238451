import pandas as pd
import pytest

from clvq_lens.errors import DataError
from clvq_lens.plots.removal_effects import plot_faithfulness
from clvq_lens.plots.theme import BLUE, GRAY
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
    assert plot_faithfulness(conditions).data[0].marker.color == (BLUE, GRAY)
    renamed = conditions.replace("random code", "the code itself")
    figure = plot_faithfulness(renamed, concept="the code itself")
    assert figure.data[0].marker.color == (GRAY, BLUE)


def test_panels_are_those_of_the_table_in_its_order(conditions):
    conditions.loc[conditions["ablation"] == "code", "ablation"] = "a new one"
    titles = [note.text for note in plot_faithfulness(conditions[::-1]).layout.annotations]
    assert titles == ["in the model: a new one", "probe: raw code vector projected out"]


def test_rows_are_as_far_apart_in_every_panel(conditions):
    more = conditions[conditions["place"] == "probe"].assign(place="model")
    layout = plot_faithfulness(pd.concat([conditions, more, more])).layout
    apart = []
    for axis in (layout.yaxis, layout.yaxis2, layout.yaxis3):
        (low, high), (bottom, top) = axis.domain, axis.range
        apart.append((high - low) / (bottom - top))
    assert apart == pytest.approx([apart[0]] * 3)


def test_names_cannot_break_out(conditions):
    assert_harmless(plot_faithfulness(conditions, protocol=HOSTILE))


def test_a_table_without_a_removal_is_refused(conditions):
    with pytest.raises(DataError, match="no row in which something was removed"):
        plot_faithfulness(conditions.iloc[:1])


def test_verdicts_stand_in_the_titles_of_their_panels(conditions):
    findings = {("probe", "raw"): "specific", ("model", "code"): HOSTILE}
    figure = plot_faithfulness(conditions, findings=findings)
    title = figure.layout.annotations[0].text
    assert title.replace("<br>", " ") == "probe: raw code vector projected out (specific)"
    assert all(len(line) <= 36 for line in title.split("<br>"))  # or a narrow page cuts it off
    assert_harmless(figure)
