"""The codebook as a map: code vectors in two dimensions, with usage as size."""

import html
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Bool, Float, Int
from sklearn.manifold import TSNE

from clvq_lens.arguments import check_choice, check_names
from clvq_lens.errors import ShapeError
from clvq_lens.plots.colors import code_colors
from clvq_lens.plots.principal_components import principal_components
from clvq_lens.plots.text import code_name
from clvq_lens.plots.theme import DOT_PX, GRAY, themed, translucent

MapMethod = Literal["pca", "tsne"]

_LARGEST_PX = 40  # diameter of the most used code
_OPACITY = 0.7  # of marks, which overlap; their edges keep the contrast of the color itself
_NAME_WIDTH = 20  # characters of a name on the map
_NAME_PX = 11  # size of its font
# Names are kept from overlapping where the outermost codes are as far apart as this: on a page of
# 700 pixels, the narrowest that we draw on. On a wider one they are further apart.
_MAP_PX = np.array([500.0, 400.0])
_BORDER_PX = 24  # of the map around the outermost codes
_CHARACTER_PX = np.array([6.4, 14.0])
_COVERED = 0.35  # of the diameter of a mark: a name may touch its edge, but not cover it
_SIDES = {
    "top center": (0.0, 1.0),
    "bottom center": (0.0, -1.0),
    "middle right": (1.0, 0.0),
    "middle left": (-1.0, 0.0),
}


class _Map(NamedTuple):
    points: Float[np.ndarray, "k 2"]
    axes: tuple[str, str]


def plot_codebook(
    vectors: Float[np.ndarray, "k d"],
    usage: Int[np.ndarray, " k"],
    names: Mapping[int, str] | None = None,
    *,
    method: MapMethod = "pca",
    seed: int = 0,
) -> go.Figure:
    """A map of the codebook: near codes have similar vectors, and large ones many tokens.

    Args:
        vectors: The code vectors, one a row.
        usage: Tokens in each code.
        names: What codes mean, such as ``lens.concepts(texts).names()``. The most used codes
            are named on the map; where there is no room for a name, the number stands alone.
        method: "pca", a linear projection whose axes say how much of the variance they show, or
            "tsne" (van der Maaten and Hinton 2008), which keeps neighbors together, but distances
            between groups mean little.
        seed: Random seed for t-SNE.

    Raises:
        ShapeError: If there are not as many usages as code vectors.
        ConfigError: If there is no such method.

    Example:
        >>> plot_codebook(np.eye(3), np.array([5, 1, 0])).layout.title.text
        'Map of the codebook: 3 codes'
    """
    if len(vectors) != len(usage):
        raise ShapeError(
            f"There are {len(vectors)} code vectors and {len(usage)} usages. Pass one usage, "
            f"in tokens, for each code vector."
        )
    check_names(names)
    points, axes = _projected(vectors, method, seed)
    colors = code_colors(vectors)
    names = names or {}
    hovers = []
    for code, count in enumerate(usage.tolist()):
        share = count / max(1, usage.sum())
        name = code_name(code, names.get(code, ""))
        hovers.append(f"code {name}<br>usage {count:,} tokens<br>share {share:.2%}")
    figure = go.Figure()
    _draw_unused(figure, points, usage == 0, hovers)
    _draw_used(figure, points, usage, hovers, names, colors)
    figure.update_xaxes(title_text=axes[0], zeroline=False)
    figure.update_yaxes(title_text=axes[1], zeroline=False)
    figure = themed(figure, title=f"Map of the codebook: {len(usage):,} codes", height=600)
    return figure.update_layout(showlegend=True, legend_itemsizing="constant")


def _projected(vectors: Float[np.ndarray, "k d"], method: str, seed: int) -> _Map:
    check_choice("method", method, get_args(MapMethod))
    n, width = vectors.shape
    if n < 2 or not np.ptp(vectors, axis=0).any():  # nothing varies, so nothing to project
        return _Map(np.zeros((n, 2)), ("no variance to show", "no variance to show"))
    if method == "tsne":
        tsne = TSNE(
            # It has to be below the number of codes.
            perplexity=min(30.0, (n - 1) / 3),
            # Starting from the components keeps the large-scale order of the codes.
            init="pca" if min(n, width) >= 2 else "random",
            random_state=seed,
        )
        axes = ("t-SNE 1 (only neighborhoods mean something)", "t-SNE 2")
        return _Map(np.asarray(tsne.fit_transform(vectors), dtype=float), axes)
    components = principal_components(vectors)
    shares = components.shares
    axes = (
        f"principal component 1 ({shares[0]:.1%} of variance)",
        f"principal component 2 ({shares[1]:.1%} of variance)",
    )
    return _Map(components.points[:, :2], axes)


def _draw_unused(
    figure: go.Figure,
    points: Float[np.ndarray, "k 2"],
    unused: Bool[np.ndarray, " k"],
    hovers: Sequence[str],
) -> None:
    if not unused.any():
        return
    figure.add_scatter(
        x=points[unused, 0],
        y=points[unused, 1],
        mode="markers",
        name=f"unused ({unused.sum():,})",
        legendrank=2,
        marker={"symbol": "circle-open", "size": DOT_PX, "color": GRAY},
        hovertext=np.asarray(hovers, dtype=object)[unused].tolist(),
        hovertemplate="%{hovertext}<extra></extra>",
    )


def _draw_used(
    figure: go.Figure,
    points: Float[np.ndarray, "k 2"],
    usage: Int[np.ndarray, " k"],
    hovers: Sequence[str],
    names: Mapping[int, str],
    colors: Sequence[str],
) -> None:
    order = np.argsort(-usage, kind="stable")  # the largest first, so that they cover none
    order = order[usage[order] > 0]
    if not len(order):
        return
    own_names: list[str] = []
    own_hovers: list[str] = []
    own_colors: list[str] = []
    for code in map(int, order):
        own_names.append(code_name(code, names.get(code, ""), width=_NAME_WIDTH))
        own_hovers.append(hovers[code])
        own_colors.append(colors[code])
    diameters = _LARGEST_PX * np.sqrt(usage[order] / usage.max())
    texts, sides = _names_with_room(points[order], own_names, diameters)
    figure.add_scatter(
        x=points[order, 0],
        y=points[order, 1],
        mode="markers+text",
        name=f"in use ({len(order):,}); area: tokens, the largest {usage.max() / usage.sum():.1%}",
        legendrank=1,
        marker={
            "size": usage[order],
            "sizemode": "area",
            "sizeref": 2 * usage.max() / _LARGEST_PX**2,
            "color": [translucent(color, _OPACITY) for color in own_colors],
            "opacity": 1,  # of fill and edge: plotly makes marks of several sizes translucent
            "line": {"width": 1, "color": own_colors},
        },
        text=texts,
        textposition=sides,
        textfont={"size": _NAME_PX},
        hovertext=own_hovers,
        hovertemplate="%{hovertext}<extra></extra>",
        cliponaxis=False,
    )


def _names_with_room(
    points: Float[np.ndarray, "n 2"], names: Sequence[str], diameters: Float[np.ndarray, " n"]
) -> tuple[list[str], list[str]]:
    """What is written at each code, and on which side of it, so that no text covers another.

    That is its name, else its number, else nothing. The first codes choose first, so that the most
    used ones have their names.
    """
    room = _Room(points, diameters)
    texts: list[str] = []
    sides: list[str] = []
    for index, name in enumerate(names):
        number = name.split(" ")[0]
        text, side = name, room.take(index, name)
        if side is None:
            text, side = number, room.take(index, number)
        if side is None:
            text, side = "", "top center"
        texts.append(text)
        sides.append(side)
    return texts, sides


class _Room:
    """Which parts of the map are covered by marks and by names, as boxes in pixels."""

    def __init__(
        self, points: Float[np.ndarray, "n 2"], diameters: Float[np.ndarray, " n"]
    ) -> None:
        span = np.ptp(points, axis=0)
        # One code alone, or codes on a line, span nothing.
        self.centers = (points - points.min(0)) / np.where(span > 0, span, 1) * _MAP_PX
        self.diameters = diameters
        self.middles = self.centers
        self.halves = np.repeat(_COVERED * diameters[:, None], 2, axis=1)

    def take(self, index: int, text: str) -> str | None:
        """Covers a side of a mark where its text has room; None: there is none."""
        n_characters = len(html.unescape(text))  # an entity is shown as one character
        half = np.array([n_characters, 1]) * _CHARACTER_PX / 2
        for side, direction in _SIDES.items():
            middle = self.centers[index] + np.array(direction) * (half + self.diameters[index] / 2)
            on_map = (np.abs(middle - _MAP_PX / 2) + half <= _MAP_PX / 2 + _BORDER_PX).all()
            # Two boxes are apart if they are so along one of the axes.
            is_free = (np.abs(middle - self.middles) >= half + self.halves).any(1).all()
            if on_map and is_free:
                self.middles = np.vstack([self.middles, middle])
                self.halves = np.vstack([self.halves, half])
                return side
        return None
