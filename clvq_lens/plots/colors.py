"""The color of a code: decided here, from its codebook, for every figure and for the page."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from clvq_lens.plots.principal_components import principal_components
from clvq_lens.plots.theme import GRAY

NO_CODE = GRAY  # padding, special tokens, and what is not shown
# Lightness in OKLab. From 0.44 to 0.74 a color has a contrast of 2.1 or more on white and on
# #111, and whatever is drawn in it also carries its number or its text.
_DARKEST, _LIGHTEST = 0.44, 0.74
_STRONGEST = 0.17  # chroma in OKLab, where a screen can show it
_N_HALVINGS = 20  # in the search for the strongest color of a hue
# As a part of a circle: however many steps of this length, no two of them end close together.
_GOLDEN_TURN = (3 - 5**0.5) / 2
_N_LEVELS = 3  # levels of lightness where there is no codebook

_CONES_FROM_OKLAB = np.array(
    [
        [1.0, 0.3963377774, 0.2158037573],
        [1.0, -0.1055613458, -0.0638541728],
        [1.0, -0.0894841775, -1.2914855480],
    ]
)
_RGB_FROM_CONES = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)


def code_colors(vectors: Float[np.ndarray, "k d"]) -> tuple[str, ...]:
    """The color of every code of a codebook, the same wherever the code is shown.

    The hue is the direction in which a code lies on the map of the codebook (`plot_codebook`), so
    that codes with similar vectors have similar hues. Codes of one hue differ in lightness, which
    color-blind readers see as well. No two codes share a color; but among hundreds some look
    much alike, so show the number or the name of a code, too.

    Args:
        vectors: The code vectors, one a row.

    Returns:
        The color of each code, as ``#rrggbb``.

    Example:
        >>> len(set(code_colors(np.random.default_rng(0).normal(size=(256, 8)))))
        256
    """
    n_codes = len(vectors)
    points = principal_components(np.asarray(vectors, dtype=float)).points
    if n_codes:  # the median of nothing would warn
        points = points - np.median(points, axis=0)
    # Ranks of the angles, not angles: then all hues are used, also where the map is crowded. The
    # sort is stable, so that codes with equal vectors have the same colors on every machine.
    around = np.argsort(np.arctan2(points[:, 1], points[:, 0]), kind="stable")
    # More hues than levels: hues are told apart more easily than shades of one hue.
    n_levels = min(n_codes, 1 + round(n_codes ** (1 / 3)))
    n_hues = -(-n_codes // max(1, n_levels))
    turns, lightness = np.zeros(n_codes), np.zeros(n_codes)
    for hue in range(n_hues):
        codes = around[hue * n_codes // n_hues : (hue + 1) * n_codes // n_hues]
        codes = codes[np.argsort(points[codes, 2], kind="stable")]
        turns[codes] = hue / n_hues
        # Every other hue lies between the levels of its neighbors.
        levels = np.arange(len(codes)) + (hue % 2) / 2
        lightness[codes] = levels / max(1.0, n_levels - 0.5)
    return tuple(_colors(turns, lightness))


def color_of(code: int, colors: Sequence[str] | None) -> str:
    """The color of one code.

    Args:
        code: Number of the code; a negative one means that there is no code, and is gray.
        colors: Colors of all codes, from `code_colors`; None: the codebook is not known, and
            neighboring numbers get colors that are far apart.
    """
    if code < 0:
        return NO_CODE
    if colors is not None:
        return colors[code]
    return _color(code * _GOLDEN_TURN % 1, code % _N_LEVELS / (_N_LEVELS - 1))


def color_of_group(number: int) -> str:
    """The color of a group of nodes, light enough to be seen through on a dark page.

    Args:
        number: Number of the group, from 0.
    """
    return _color(number * _GOLDEN_TURN % 1, 1.0)


def _color(turn: float, lightness: float) -> str:
    return _colors(np.array([turn]), np.array([lightness]))[0]


def _colors(turns: Float[np.ndarray, " n"], lightness: Float[np.ndarray, " n"]) -> list[str]:
    """Colors of some hues, as strong as a screen can show them.

    Args:
        turns: Places on the circle of hues, 0 to 1.
        lightness: From 0, the darkest that we use, to 1, the lightest.
    """
    levels = _DARKEST + (_LIGHTEST - _DARKEST) * lightness
    # OKLab reaches beyond what a screen can show, at a chroma that differs from hue to hue. Gray
    # can always be shown, so halving finds the strongest color of each hue.
    weakest, strongest = np.zeros(len(turns)), np.full(len(turns), _STRONGEST)
    chroma = strongest
    for _ in range(_N_HALVINGS):
        rgb = _linear_rgb(levels, turns, chroma)
        is_shown = ((rgb >= 0) & (rgb <= 1)).all(1)
        weakest = np.where(is_shown, chroma, weakest)
        strongest = np.where(is_shown, strongest, chroma)
        chroma = (weakest + strongest) / 2
    linear = np.clip(_linear_rgb(levels, turns, weakest), 0, 1)
    # The transfer function of sRGB: screens want more steps where colors are dark.
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in np.rint(255 * encoded).astype(int).tolist()]


def _linear_rgb(
    lightness: Float[np.ndarray, " n"],
    turns: Float[np.ndarray, " n"],
    chroma: Float[np.ndarray, " n"],
) -> Float[np.ndarray, "n 3"]:
    """Linear RGB from OKLab (Björn Ottosson 2020), in which distances are about what one sees."""
    angles = 2 * np.pi * turns
    oklab = np.stack([lightness, chroma * np.cos(angles), chroma * np.sin(angles)], axis=1)
    return (oklab @ _CONES_FROM_OKLAB.T) ** 3 @ _RGB_FROM_CONES.T
