"""The colour of a code: decided here, from its codebook, for every figure and for the page."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from clvq_lens.plots.projection import principal_components

NO_CODE = "#8a8f98"  # padding, special tokens, and what is not shown
# Lightness in OKLab. From 0.44 to 0.74 a colour has a contrast of 2.1 or more on white and on
# #111, and whatever is drawn in it also carries its number or its text.
_DARKEST, _LIGHTEST = 0.44, 0.74
_STRONGEST = 0.17  # chroma in OKLab, where a screen can show it
_N_HALVINGS = 20  # in the search for the strongest colour of a hue
_GOLDEN_TURN = (3 - 5**0.5) / 2  # of a circle; however many steps, no two end near each other
_N_LEVELS = 3  # of lightness, where there is no codebook

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


def code_colours(vectors: Float[np.ndarray, "k d"]) -> tuple[str, ...]:
    """The colour of every code of a codebook, the same wherever the code is shown.

    The hue is the direction in which a code lies on the map of the codebook (`plot_codebook`), so
    that codes with similar vectors have similar hues. Codes of one hue differ in lightness, which
    colour-blind readers see as well. No two codes share a colour; but among hundreds some look
    much alike, so show the number or the name of a code, too.

    Args:
        vectors: The code vectors.

    Returns:
        For each code its colour, as ``#rrggbb``.

    Example:
        >>> len(set(code_colours(np.random.default_rng(0).normal(size=(256, 8)))))
        256
    """
    n_codes = len(vectors)
    points = principal_components(np.asarray(vectors, dtype=float)).points
    points = points - np.median(points, axis=0) if n_codes else points
    # Ranks of the angles, not angles: then all hues are used, also where the map is crowded.
    around = np.argsort(np.arctan2(points[:, 1], points[:, 0]), kind="stable")
    n_levels = min(n_codes, 1 + round(n_codes ** (1 / 3)))
    n_hues = -(-n_codes // max(1, n_levels))
    turns, lightness = np.zeros(n_codes), np.zeros(n_codes)
    for hue in range(n_hues):
        codes = around[hue * n_codes // n_hues : (hue + 1) * n_codes // n_hues]
        codes = codes[np.argsort(points[codes, 2], kind="stable")]
        turns[codes] = hue / n_hues
        # Every other hue lies between the levels of its neighbours.
        levels = np.arange(len(codes)) + (hue % 2) / 2
        lightness[codes] = levels / max(1.0, n_levels - 0.5)
    return tuple(_colours(turns, lightness))


def colour_of(code: int, colours: Sequence[str] | None) -> str:
    """The colour of one code.

    Args:
        code: Its number; below zero: no code, which is grey.
        colours: From `code_colours`. None: the codebook is not known, and neighbouring numbers
            get colours that are far apart.
    """
    if code < 0:
        return NO_CODE
    if colours is not None:
        return colours[code]
    return _colour(code * _GOLDEN_TURN % 1, code % _N_LEVELS / (_N_LEVELS - 1))


def colour_of_group(number: int) -> str:
    """The colour of a group of nodes, light enough to be seen through on a dark page.

    Args:
        number: Of the group, from 0.
    """
    return _colour(number * _GOLDEN_TURN % 1, 1.0)


def _colour(turn: float, lightness: float) -> str:
    return _colours(np.array([turn]), np.array([lightness]))[0]


def _colours(turns: Float[np.ndarray, " n"], lightness: Float[np.ndarray, " n"]) -> list[str]:
    """Colours of some hues, as strong as a screen can show them.

    Args:
        turns: Around the circle of hues, 0 to 1.
        lightness: From 0, the darkest that we use, to 1, the lightest.
    """
    levels = _DARKEST + (_LIGHTEST - _DARKEST) * lightness
    weakest, strongest = np.zeros(len(turns)), np.full(len(turns), _STRONGEST)
    chroma = strongest
    for _ in range(_N_HALVINGS):
        rgb = _linear_rgb(levels, turns, chroma)
        is_shown = ((rgb >= 0) & (rgb <= 1)).all(1)
        weakest = np.where(is_shown, chroma, weakest)
        strongest = np.where(is_shown, strongest, chroma)
        chroma = (weakest + strongest) / 2
    linear = np.clip(_linear_rgb(levels, turns, weakest), 0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in np.rint(255 * encoded).astype(int).tolist()]


def _linear_rgb(
    lightness: Float[np.ndarray, " n"],
    turns: Float[np.ndarray, " n"],
    chroma: Float[np.ndarray, " n"],
) -> Float[np.ndarray, "n 3"]:
    """From OKLab (Björn Ottosson 2020), in which distances are about what one sees."""
    angles = 2 * np.pi * turns
    oklab = np.stack([lightness, chroma * np.cos(angles), chroma * np.sin(angles)], axis=1)
    return (oklab @ _CONES_FROM_OKLAB.T) ** 3 @ _RGB_FROM_CONES.T
