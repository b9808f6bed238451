import plotly.graph_objects as go
import pytest

from clvq_lens.plots.theme import COLOURS, luminance, themed

WHITE, DARK = luminance("#ffffff"), luminance("#111111")


def contrast(one: float, other: float) -> float:
    low, high = sorted((one, other))
    return (high + 0.05) / (low + 0.05)


def test_a_themed_figure_is_transparent_and_has_its_title():
    figure = themed(go.Figure(go.Scatter(x=[1], y=[2])), title="A title", height=300)
    assert figure.layout.title.text == "A title"
    assert figure.layout.height == 300
    assert figure.layout.paper_bgcolor == figure.layout.plot_bgcolor == "rgba(0,0,0,0)"
    assert figure.layout.colorway == COLOURS


def test_theming_keeps_the_data_and_the_axis_titles():
    figure = go.Figure(go.Scatter(x=[1], y=[2]), layout={"xaxis": {"title": {"text": "tokens"}}})
    themed(figure, title="A title")
    assert figure.layout.xaxis.title.text == "tokens"
    assert list(figure.data[0].y) == [2]


def test_luminance_is_that_of_wcag():
    assert luminance("#000000") == 0
    assert luminance("#ffffff") == pytest.approx(1)
    assert luminance("#767676") == pytest.approx(0.1812, abs=1e-4)  # the grey of contrast 4.54
    assert luminance("#00ff00") == pytest.approx(0.7152)


def test_colours_and_text_are_readable_on_light_and_on_dark_pages():
    """WCAG: a contrast of 3 for graphics and large text."""
    figure = themed(go.Figure(), title="A title")
    for colour in figure.layout.font.color, *COLOURS:
        assert contrast(luminance(colour), WHITE) >= 3, colour
        assert contrast(luminance(colour), DARK) >= 3, colour
