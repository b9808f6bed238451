import numpy as np
import pandas as pd
import pytest

from clvq_lens.interventions.patching import ConceptPatching
from clvq_lens.interventions.sweep import AblationSweep
from clvq_lens.plots.interventions import (
    plot_ablations,
    plot_ablations_by_position,
    plot_attribution,
    plot_patching,
)
from tests.plots.figures import HOSTILE, assert_harmless, axis_titles, trace

STRINGS = ("<bos>", " the", " sea")


def sweep(*, by_position: bool = False, metric: str = "loss in nats per token") -> AblationSweep:
    return AblationSweep(
        metric=metric,
        unedited=1.0,
        codes=(4, 17, 4) if by_position else (4, 17, 30),
        positions=(1, 2, 2) if by_position else None,
        n_tokens=(9, 5, 2),
        values=(1.5, -1.0, 1.25),
        controls=(0.1, 0.2, 0.3),
        strings=STRINGS,
        tokens=("the a", "sea", "the a") if by_position else ("the a", "sea", "comma"),
        contexts=("<bos> [the] sea",) * 3,
    )


def patching(*, control: bool = True) -> ConceptPatching:
    return ConceptPatching(
        metric="probability",
        clean=1.0,
        corrupted=0.0,
        values=(0.0, 0.25, 0.75),
        controls=(0.0, 0.1, -0.1) if control else None,
        clean_codes=((-1, 4, 17),),
        corrupted_codes=((-1, 4, 30),),
        clean_strings=STRINGS,
        corrupted_strings=("<bos>", " the", " sun"),
        n_changed=(0, 0, 1),
    )


def test_effects_of_ablations_stand_beside_their_controls():
    figure = plot_ablations(sweep().frame({17: "water"}), metric="loss in nats per token")
    effects = trace(figure, "this code ablated")
    context = "<br>&lt;bos&gt; [the] sea"  # below the name, or else the tokens
    assert effects.y == (f"17 water{context}", f"4 the a{context}", f"30 comma{context}")
    assert list(effects.x) == [-2, 0.5, 0.25]
    assert list(trace(figure, "mean of codes used as often").x) == [0.2, 0.1, 0.3]
    assert axis_titles(figure) == {
        "xaxis": "change of loss in nats per token",
        "yaxis": "ablated code",
    }
    assert figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1]  # downwards


def test_a_long_metric_takes_no_room_from_the_rows():
    short, long = plot_ablations(sweep(), metric="m"), plot_ablations(sweep(), metric="long " * 20)
    n_lines = 1 + axis_titles(long)["xaxis"].count("<br>")
    assert n_lines == 4
    assert long.layout.height - short.layout.height == 18 * (n_lines - 1)


def test_only_so_many_codes_are_shown():
    figure = plot_ablations(sweep(), metric="loss", n_codes=2)
    assert [name.split("<br>")[0] for name in trace(figure, "this").y] == ["17 sea", "4 the a"]
    assert figure.layout.height < plot_ablations(sweep(), metric="loss").layout.height


def test_a_long_name_is_cut_so_that_bars_keep_their_room():
    figure = plot_ablations(sweep().frame({17: "x" * 90}), metric="loss")
    assert trace(figure, "this").y[0].split("<br>")[0] == "17 " + "x" * 25 + "\u2026"


def test_effects_by_position_stand_under_their_token():
    frame = sweep(by_position=True).frame({17: "water"})
    figure = plot_ablations_by_position(frame, STRINGS, metric="loss in nats per token")
    [cells] = figure.data
    assert cells.x == ("0 &lt;bos&gt;", "1 \u2423the", "2 \u2423sea")
    assert cells.y == ("17 water", "4 the a")
    expected = [[np.nan, np.nan, -2], [np.nan, 0.5, 0.25]]
    np.testing.assert_array_equal(np.array(cells.z), expected)
    assert (cells.zmin, cells.zmid, cells.zmax) == (-2, 0, 2)
    assert axis_titles(figure) == {"xaxis": "position and token", "yaxis": "ablated code"}
    [note] = figure.layout.annotations
    assert note.text == "color: change of loss in nats per token"
    assert cells.customdata[0][2] == "other codes near there: 0.2"
    assert cells.customdata[1][0] == ""


def test_zero_is_nearly_transparent_and_the_signs_have_colors_of_their_own():
    """A white zero would glare on a dark page."""
    [cells] = plot_patching(patching(), metric="probability").data
    colors = dict(cells.colorscale)
    assert colors[0.5] == "rgba(128,128,128,0.12)"
    assert (colors[0], colors[1]) == ("#2f7ed8", "#d64550")


def test_patched_codes_stand_above_random_ones():
    figure = plot_patching(patching(), metric="probability")
    [cells] = figure.data
    assert cells.y == ("clean run's code", "a random code")
    np.testing.assert_array_equal(np.array(cells.z), [[0, 0.25, 0.75], [0, 0.1, -0.1]])
    assert cells.x[1:] == ("1 \u2423the", "2 \u2423sea / \u2423sun")
    assert figure.layout.annotations[0].text == "color: effect: 0 corrupted, 1 clean"


def test_hovers_of_patching_tell_both_codes():
    details = plot_patching(patching().frame({17: "sea"}), metric="p").data[0].customdata
    assert details[0][0] == "clean: none<br>corrupted: none"
    assert details[0][2] == "clean: code 17 sea<br>corrupted: code 30"
    unnamed = plot_patching(patching(), metric="p").data[0].customdata
    assert unnamed[0][2] == "clean: code 17<br>corrupted: code 30"


def test_without_a_control_there_is_one_row():
    assert plot_patching(patching(control=False), metric="p").data[0].y == ("clean run's code",)


def test_no_effects_at_all_are_drawn():
    empty = sweep(by_position=True).frame().head(0)
    assert np.size(plot_ablations_by_position(empty, STRINGS, metric="loss").data[0].z) == 0
    assert len(trace(plot_ablations(sweep().frame().head(0), metric="loss"), "this").x) == 0


def pairs(n: int = 3) -> pd.DataFrame:
    at = {"text": range(n), "position": range(n), "code": range(n), "replaced_by": range(n)}
    effects = {name: np.arange(n) * 0.1 for name in ("first_order", "exact_decoder", "true")}
    return pd.DataFrame({**at, **effects})


def positions(token: str = " sea") -> pd.DataFrame:
    return pd.DataFrame(
        {
            **{"text": [0, 0], "position": [1, 2], "token": [token, "b"], "code": [4, 17]},
            **{"integrated": [0.5, -0.25], "true": [0.75, -0.5]},
        }
    )


def attributed(metric: str = "loss in nats per token", token: str = " sea"):
    return plot_attribution(
        pairs(),
        positions(token),
        metric=metric,
        correlations=(0.25, 0.5, 0.75),
        completeness_error=0.125,
    )


def test_each_prediction_stands_against_the_truth_and_the_line_where_they_agree():
    figure = attributed()
    points, lines = figure.data[::2], figure.data[1::2]
    assert [len(each.x) for each in points] == [3, 3, 2]
    assert (list(points[2].x), list(points[2].y)) == ([0.5, -0.25], [0.75, -0.5])
    assert all(list(line.x) == list(line.y) for line in lines)
    assert list(lines[2].x) == [-0.5, 0.75]


def test_correlations_and_completeness_are_written_beside():
    figure = attributed()
    written = [note.text.split("<br>")[-1] for note in figure.layout.annotations]
    assert written == [f"rank correlation {value}" for value in ("0.25", "0.50", "0.75")]
    titles = axis_titles(figure)
    assert titles["xaxis3"] == "attribution, same unit<br>(completeness error 12.5%)"
    assert titles["yaxis"].replace("<br>", " ") == "true effect: loss in nats per token"


@pytest.mark.parametrize(
    "figure",
    [
        plot_ablations(sweep().frame({17: HOSTILE}), metric=HOSTILE),
        plot_ablations_by_position(
            sweep(by_position=True).frame({4: HOSTILE}), [HOSTILE, "a", "b"], metric=HOSTILE
        ),
        plot_patching(patching().frame({17: HOSTILE, 30: HOSTILE}), metric=HOSTILE),
        attributed(HOSTILE, HOSTILE),
    ],
    ids=["ablations", "by position", "patching", "attribution"],
)
def test_names_tokens_and_metrics_are_no_markup(figure):
    assert_harmless(figure)
