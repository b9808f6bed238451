import plotly.graph_objects as go
import pytest

from clvq_lens.plots.training import plot_history
from clvq_lens.training.history import History, Record
from tests.plots.figures import axis_titles


def history(*, held_out: bool = True, kl: bool = False) -> History:
    return History(
        records=[
            Record(
                step=10 * i,
                n_tokens=1_000 * i,
                epoch=0,
                wall_s=float(i),
                learning_rate=1e-3,
                fvu=0.9 / i,
                kl=1.0 / i if kl else None,
                commitment=0.1,
                held_out_fvu=0.8 / i if held_out else None,
                held_out_kl=1.1 / i if kl and held_out else None,
                perplexity=5.0 + i,
                n_dead_codes=3,
                n_revived=0,
            )
            for i in (1, 2, 3)
        ]
    )


def lines(figure: go.Figure) -> dict[str, go.Scatter]:
    return {trace.name: trace for trace in figure.data}


def test_the_axes_say_what_they_measure_and_in_which_unit():
    figure = plot_history(history(kl=True).frame())
    assert isinstance(figure, go.Figure)
    assert set(axis_titles(figure).values()) == {
        "training tokens",
        "FVU",
        "codes",
        "KL in nats per token",
    }


def test_marks_at_zero_are_whole():
    assert not any(line.cliponaxis for line in plot_history(history().frame()).data)


def test_every_line_has_the_values_of_its_column():
    frame = history(kl=True).frame()
    columns = {
        "training (sampled codes)": "fvu",
        "held out (nearest codes)": "held_out_fvu",
        "perplexity": "perplexity",
        "dead codes": "n_dead_codes",
        "KL, training": "kl",
        "KL, held out": "held_out_kl",
    }
    found = lines(plot_history(frame))
    assert set(found) == set(columns)
    for name, column in columns.items():
        assert list(found[name].x) == [1_000, 2_000, 3_000]
        assert list(found[name].y) == frame[column].tolist()


def test_no_two_lines_have_the_same_color():
    found = lines(plot_history(history(kl=True).frame()))
    assert len({trace.line.color for trace in found.values()}) == len(found)


@pytest.mark.parametrize("kl", [False, True])
def test_what_was_not_held_out_is_not_drawn(kl: bool):
    found = lines(plot_history(history(held_out=False, kl=kl).frame()))
    assert "held out (nearest codes)" not in found
    assert "KL, held out" not in found
    assert ("KL, training" in found) == kl


def test_without_kl_there_is_no_panel_for_it():
    figure = plot_history(history().frame())
    assert set(axis_titles(figure).values()) == {"training tokens", "FVU", "codes"}
    assert figure.layout.height < plot_history(history(kl=True).frame()).layout.height


def test_a_history_does_as_well_as_its_table():
    assert plot_history(history()) == plot_history(history().frame())
