import pandas as pd

from clvq_lens.plots.detection_points import plot_detection
from clvq_lens.plots.theme import BLUE, GRAY
from tests.plots.figures import HOSTILE, assert_harmless, axis_titles, trace


def table(name: str = "sea") -> pd.DataFrame:
    columns = {"code": [17, 3], "name": [name, "the"]}
    return pd.DataFrame({**columns, "accuracy": [0.9, 0.6], "control": [0.4, 0.7]})


def test_every_code_has_its_accuracy_beside_that_of_another_name():
    figure = plot_detection(table())
    own, control = trace(figure, "own name"), trace(figure, "name of another code")
    assert list(own.x) == list(control.x) == [1, 2]
    assert list(own.y) == [0.9, 0.6]
    assert list(control.y) == [0.4, 0.7]
    assert (own.marker.color, control.marker.color) == (BLUE, GRAY)


def test_what_is_measured_is_drawn_over_its_control():
    assert [points.name for points in plot_detection(table()).data][-1] == "own name"


def test_chance_is_a_line_at_one_half():
    figure = plot_detection(table())
    [line] = figure.layout.shapes
    assert line.y0 == line.y1 == 0.5
    assert (line.name, line.showlegend) == ("chance", True)
    assert not figure.layout.annotations, "points at chance would cover it"
    assert axis_titles(figure)["yaxis"] == "contexts judged rightly (fraction)"


def test_a_hover_names_the_code():
    assert list(trace(plot_detection(table()), "own").text) == ["code 17: sea", "code 3: the"]


def test_names_are_no_markup():
    assert_harmless(plot_detection(table(HOSTILE)))
