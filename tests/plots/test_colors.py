"""The color of a code: the same everywhere, near its neighbors', apart for the color-blind."""

import itertools

import numpy as np
import pytest

from clvq_lens.plots.codebook_map import plot_codebook
from clvq_lens.plots.colors import NO_CODE, code_colors, color_of
from clvq_lens.plots.theme import ink, luminance
from tests.plots.figures import trace

WHITE, DARK = luminance("#ffffff"), luminance("#111111")
# What protanopes, deuteranopes and tritanopes see of linear RGB (Machado et al. 2009).
COLOR_BLIND = {
    "red": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "green": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "blue": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}


def codebook(n_codes: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n_codes, 8)) * np.array([3, 2, 1, 1, 1, 1, 1, 1])


def contrast(one: float, other: float) -> float:
    low, high = sorted((one, other))
    return (high + 0.05) / (low + 0.05)


def linear(color: str) -> np.ndarray:
    rgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def oklab(rgb: np.ndarray) -> np.ndarray:
    """Björn Ottosson's perceptual color space, in which distances look alike."""
    cones = [[0.4122, 0.5363, 0.0514], [0.2119, 0.6807, 0.1074], [0.0883, 0.2817, 0.6300]]
    lab = [[0.2105, 0.7936, -0.0041], [1.9780, -2.4286, 0.4506], [0.0259, 0.7828, -0.8087]]
    return np.array(lab) @ np.cbrt(np.clip(np.array(cones) @ rgb, 0, None))


@pytest.mark.parametrize("n_codes", [0, 1, 2, 3, 12, 256, 1_000])
def test_no_two_codes_share_a_color(n_codes):
    colors = code_colors(codebook(n_codes))
    assert len(set(colors)) == len(colors) == n_codes
    assert NO_CODE not in colors


@pytest.mark.parametrize(("n_codes", "least"), [(12, 0.08), (24, 0.06), (256, 0.015)])
def test_colors_are_apart(n_codes, least):
    """White and black are 1 apart; 0.02 is a difference that one just notices."""
    found = [oklab(linear(color)) for color in code_colors(codebook(n_codes))]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(found, 2)) > least


@pytest.mark.parametrize("kind", COLOR_BLIND)
def test_a_dozen_codes_are_apart_for_color_blind_readers_too(kind):
    seen = np.array(COLOR_BLIND[kind])
    found = [oklab(seen @ linear(color)) for color in code_colors(codebook(12))]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(found, 2)) > 0.02


def test_near_codes_have_near_hues():
    """Codes on a circle: neighbors on it are nearer in hue than codes on its other side."""
    turn = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    vectors = np.stack([3 * np.cos(turn), 2.9 * np.sin(turn), np.zeros(96)], axis=1)
    lab = np.array([oklab(linear(color)) for color in code_colors(vectors)])
    hue = np.arctan2(lab[:, 2], lab[:, 1])

    def apart(steps: int) -> float:
        difference = np.abs(hue - np.roll(hue, steps))
        return float(np.minimum(difference, 2 * np.pi - difference).mean())

    assert apart(1) < 0.3
    assert apart(48) > 2


def test_colors_do_not_hang_on_what_else_is_shown():
    vectors = codebook(40)
    assert code_colors(vectors) == code_colors(vectors.copy())
    used = trace(plot_codebook(vectors, np.arange(1, 41)), "in use").marker.line.color
    assert list(used) == list(code_colors(vectors))[::-1]  # the most used first


def test_every_color_is_seen_on_light_and_dark_pages_and_text_on_it_is_readable():
    for color in code_colors(codebook(256)):
        assert contrast(luminance(color), WHITE) >= 2.1, color
        assert contrast(luminance(color), DARK) >= 2.1, color
        assert contrast(luminance(color), luminance(ink(color))) >= 4.5, color


def test_without_a_codebook_numbers_have_colors_of_their_own_and_no_code_is_gray():
    assert len({color_of(code, None) for code in range(200)}) == 200
    assert color_of(-1, None) == color_of(-1, ("#123456",)) == NO_CODE
    assert color_of(0, ("#123456",)) == "#123456"
