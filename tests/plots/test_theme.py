from pathlib import Path

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


def test_bars_have_no_edge_which_would_glare_on_a_dark_page():
    figure = themed(go.Figure([go.Bar(x=[1], y=[2]), go.Scatter(x=[1], y=[2])]), title="A title")
    assert figure.data[0].marker.line.width == 0
    assert figure.data[1].marker.line.width is None


@pytest.mark.browser
@pytest.mark.parametrize("width", [400, 800, 1440])
def test_a_legend_of_any_height_lies_between_title_and_plot(chromium, tmp_path: Path, width):
    figure = go.Figure([go.Bar(x=[1], y=[1], name=f"one series or the {i}th") for i in range(4)])
    path = tmp_path / "figure.html"
    themed(figure, title="A title").write_html(path, include_plotlyjs=True)
    tab = chromium.new_page(viewport={"width": width, "height": 600})
    tab.goto(path.as_uri())
    legend = tab.wait_for_selector(".legend").bounding_box()
    title = tab.wait_for_selector(".gtitle").bounding_box()
    top_of_plot = tab.evaluate("document.querySelector('.js-plotly-plot')._fullLayout._size.t")
    tab.close()
    assert title["y"] + title["height"] <= legend["y"]
    assert legend["y"] + legend["height"] <= top_of_plot + 8  # the margin of the page
    assert legend["x"] + legend["width"] <= width


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
