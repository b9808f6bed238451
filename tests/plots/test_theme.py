import itertools

import numpy as np
import plotly.graph_objects as go
import pytest

from clvq_lens.plots.theme import COLOURS, CONCEPT_COLOURS, code_colours, ink, luminance, themed

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
    for colour in figure.layout.font.color, *COLOURS, *CONCEPT_COLOURS:
        assert contrast(luminance(colour), WHITE) >= 3, colour
        assert contrast(luminance(colour), DARK) >= 3, colour


def test_text_on_any_colour_of_a_concept_is_readable():
    """WCAG: a contrast of 4.5 for text of usual size."""
    for colour in CONCEPT_COLOURS:
        assert contrast(luminance(colour), luminance(ink(colour))) >= 4.5, colour


def oklab(colour: str) -> np.ndarray:
    """Björn Ottosson's perceptual colour space, in which distances look alike."""
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    cones = [[0.4122, 0.5363, 0.0514], [0.2119, 0.6807, 0.1074], [0.0883, 0.2817, 0.6300]]
    lab = [[0.2105, 0.7936, -0.0041], [1.9780, -2.4286, 0.4506], [0.0259, 0.7828, -0.8087]]
    return np.array(lab) @ np.cbrt(np.array(cones) @ linear)


def test_colours_of_concepts_are_well_apart():
    """White and black are 1 apart; 0.02 is a difference that one just notices."""
    assert len(CONCEPT_COLOURS) >= 12
    for one, other in itertools.combinations(CONCEPT_COLOURS, 2):
        assert np.linalg.norm(oklab(one) - oklab(other)) > 0.12, (one, other)


def test_a_code_has_the_same_colour_wherever_it_stands():
    first, second, third = code_colours([17, 3, 17])
    assert first == third != second
    assert code_colours([3, 17]) == [second, first]
    assert len(set(code_colours(range(12)))) == 12


def test_no_code_is_grey_and_no_concept_is():
    assert code_colours([-1]) == [COLOURS[5]]
    assert COLOURS[5] not in CONCEPT_COLOURS
    assert code_colours([]) == []
