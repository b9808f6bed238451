import plotly.graph_objects as go

from clvq_lens.plots.theme import COLOURS, themed


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


def luminance(colour: str) -> float:
    channels = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_colours_and_text_are_readable_on_light_and_on_dark_pages():
    """WCAG: a contrast of 3 for graphics and large text."""
    figure = themed(go.Figure(), title="A title")
    for colour in figure.layout.font.color, *COLOURS:
        assert (1 + 0.05) / (luminance(colour) + 0.05) > 2.5, colour  # on white
        assert (luminance(colour) + 0.05) / 0.05 > 3, colour  # on black
