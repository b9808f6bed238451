import numpy as np
import plotly.graph_objects as go
import pytest

from clvq_lens.plots.theme import (
    COLORS,
    channels,
    ink,
    log_ticks,
    luminance,
    themed,
    translucent,
)

WHITE, DARK = luminance("#ffffff"), luminance("#111111")


def contrast(one: float, other: float) -> float:
    low, high = sorted((one, other))
    return (high + 0.05) / (low + 0.05)


def test_a_themed_figure_is_transparent_and_has_its_title():
    figure = themed(go.Figure(go.Scatter(x=[1], y=[2])), title="A title", height=300)
    assert figure.layout.title.text == "A title"
    assert figure.layout.height == 300
    assert figure.layout.paper_bgcolor == figure.layout.plot_bgcolor == "rgba(0,0,0,0)"
    assert figure.layout.colorway == COLORS


def test_theming_keeps_the_data_and_the_axis_titles():
    figure = go.Figure(go.Scatter(x=[1], y=[2]), layout={"xaxis": {"title": {"text": "tokens"}}})
    themed(figure, title="A title")
    assert figure.layout.xaxis.title.text == "tokens"
    assert list(figure.data[0].y) == [2]


def test_luminance_is_that_of_wcag():
    assert luminance("#000000") == 0
    assert luminance("#ffffff") == pytest.approx(1)
    assert luminance("#767676") == pytest.approx(0.1812, abs=1e-4)  # the gray of contrast 4.54
    assert luminance("#00ff00") == pytest.approx(0.7152)


def test_colors_and_text_are_readable_on_light_and_on_dark_pages():
    """WCAG: a contrast of 3 for graphics and large text."""
    figure = themed(go.Figure(), title="A title")
    for color in figure.layout.font.color, *COLORS:
        assert contrast(luminance(color), WHITE) >= 3, color
        assert contrast(luminance(color), DARK) >= 3, color


def test_a_color_has_three_channels():
    assert channels("#ff8000") == (255, 128, 0)
    assert translucent("#ff8000", 0.5) == "rgba(255, 128, 0, 0.5)"


@pytest.mark.parametrize("color", ["#000000", "#767676", "#777777", "#ffffff", "#00ff00", *COLORS])
def test_ink_can_be_read_on_every_color(color):
    assert contrast(luminance(ink(color)), luminance(color)) >= 4.5


@pytest.mark.parametrize(
    ("values", "expected"), [([1, 500], "D2"), ([1, 501], 1), ([0.01, 1.0], "D2"), ([], "D2")]
)
def test_a_wide_logarithmic_axis_has_ticks_at_powers_of_ten_alone(values, expected):
    assert log_ticks(np.array(values)) == expected
