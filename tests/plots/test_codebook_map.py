import inspect

import numpy as np
import pytest
from sklearn.decomposition import PCA

from clvq_lens.errors import ConfigError, ShapeError
from clvq_lens.plots.codebook_map import plot_codebook
from clvq_lens.plots.theme import translucent
from tests.plots.figures import HOSTILE, assert_harmless, axis_titles, trace


@pytest.fixture
def vectors() -> np.ndarray:
    scales = np.array([5.0, 2.0, 1.0, 0.5, 0.5, 0.1])
    return np.random.default_rng(0).normal(size=(30, 6)) * scales


@pytest.fixture
def usage() -> np.ndarray:
    usage = np.arange(30) ** 2
    usage[[3, 7]] = 0
    return usage


def test_each_code_stands_at_its_principal_components(vectors, usage):
    figure = plot_codebook(vectors, usage)
    expected = PCA(2).fit_transform(vectors)
    for start, codes in (("in use", np.argsort(-usage)[:27]), ("unused", [0, 3, 7])):
        points = trace(figure, start)
        drawn = np.stack([points.x, points.y], axis=1)
        np.testing.assert_allclose(np.abs(drawn), np.abs(expected[codes]), atol=1e-8)


def test_the_axes_say_how_much_of_the_variance_they_show(vectors, usage):
    first, second = PCA(2).fit(vectors).explained_variance_ratio_
    titles = axis_titles(plot_codebook(vectors, usage))
    assert f"({first:.1%} of variance)" in titles["xaxis"]
    assert f"({second:.1%} of variance)" in titles["yaxis"]


def test_the_area_of_a_mark_is_proportional_to_usage(vectors, usage):
    marker = trace(plot_codebook(vectors, usage), "in use").marker
    assert marker.sizemode == "area"
    assert list(marker.size) == sorted(usage[usage > 0], reverse=True)
    assert marker.sizemin is None  # nothing is drawn larger than its usage
    largest_px = 2 * np.sqrt(max(marker.size) / marker.sizeref / 2)  # plotly: size / sizeref * 2
    assert 20 < largest_px < 80


def test_marks_are_seen_through_and_their_edges_have_the_color_of_the_code(vectors, usage):
    marker = trace(plot_codebook(vectors, usage), "in use").marker
    assert marker.opacity == 1, "plotly makes fill and edge translucent by itself"
    assert list(marker.color) == [translucent(color, 0.7) for color in marker.line.color]


def test_the_legend_says_what_size_means(vectors, usage):
    name = trace(plot_codebook(vectors, usage), "in use").name
    assert name == f"in use (27); area: tokens, the largest {usage.max() / usage.sum():.1%}"


def test_unused_codes_are_small_and_hollow(vectors, usage):
    figure = plot_codebook(vectors, usage)
    unused = trace(figure, "unused")
    assert unused.name == "unused (3)"
    assert unused.marker.symbol == "circle-open"
    assert unused.marker.size < 8
    full = plot_codebook(vectors, np.ones(30, dtype=int))
    assert [each.name[:6] for each in full.data] == ["in use"]


def test_a_hover_tells_code_name_usage_and_share(vectors, usage):
    hovers = trace(plot_codebook(vectors, usage, {29: "the sea"}), "in use").hovertext
    share = f"{usage[29] / usage.sum():.2%}"
    assert hovers[0] == f"code 29 the sea<br>usage 841 tokens<br>share {share}"
    assert hovers[1].startswith("code 28<br>usage 784 tokens")


def test_the_names_on_the_map_are_those_of_much_used_codes_and_do_not_overlap(vectors, usage):
    names = {code: f"name of {code}" for code in range(30)}
    points = trace(plot_codebook(vectors, usage, names), "in use")
    places = [place for place, name in enumerate(points.text) if name]
    named = [place for place in places if "name" in points.text[place]]
    assert len(named) >= 10
    assert len(places) >= 25  # where there is no room for a name, the number stands alone
    assert points.text[places[0]] == f"{29 - places[0]} name of {29 - places[0]}"
    crowd = np.repeat(vectors[:2], 15, axis=0)
    crowded = trace(plot_codebook(crowd, np.ones(30, dtype=int), names), "in use")
    assert sum(bool(name) for name in crowded.text) <= 8  # two places with four sides each


def test_tsne_is_seeded_and_says_so_on_its_axes(vectors, usage):
    one, other = (plot_codebook(vectors, usage, method="tsne", seed=3) for _ in range(2))
    assert list(one.data[0].x) == list(other.data[0].x)
    assert axis_titles(one)["xaxis"].startswith("t-SNE 1")
    assert list(plot_codebook(vectors, usage).data[0].x) != list(one.data[0].x)


@pytest.mark.parametrize("method", ["pca", "tsne"])
@pytest.mark.parametrize("shape", [(0, 4), (1, 4), (2, 4), (3, 1), (5, 2)])
def test_small_codebooks_have_a_map(method, shape):
    vectors = np.random.default_rng(1).normal(size=shape)
    figure = plot_codebook(vectors, np.arange(shape[0]), method=method)
    assert sum(len(each.x) for each in figure.data) == shape[0]
    assert all(np.isfinite(np.array(each.x, dtype=float)).all() for each in figure.data)


def test_equal_vectors_and_no_usage_have_a_map():
    figure = plot_codebook(np.ones((4, 3)), np.zeros(4, dtype=int))
    assert [each.name for each in figure.data] == ["unused (4)"]
    assert axis_titles(figure)["xaxis"] == "no variance to show"


def test_names_are_no_markup(vectors, usage):
    assert_harmless(plot_codebook(vectors, usage, dict.fromkeys(range(30), HOSTILE)))


def test_refusals(vectors, usage):
    unchecked = inspect.unwrap(plot_codebook)  # types are checked in tests only
    with pytest.raises(ShapeError, match="30 code vectors and 2 usages"):
        unchecked(vectors, usage[:2])
    with pytest.raises(ConfigError, match=r"method is 'umap'.*'pca', 'tsne'"):
        unchecked(vectors, usage, method="umap")
