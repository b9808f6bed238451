"""The codebook as a map: code vectors in two dimensions, with usage as size."""

import html
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Bool, Float, Int

from clvq_lens.arguments import check_choice, check_names
from clvq_lens.errors import ShapeError
from clvq_lens.plots.colours import code_colours
from clvq_lens.plots.projection import principal_components
from clvq_lens.plots.text import code_name
from clvq_lens.plots.theme import COLOURS, themed

Method = Literal["pca", "tsne"]

_LARGEST_PX = 40  # diameter of the most used code
_NAME_WIDTH = 20
# Names are kept from overlapping on a map of this size, the smallest that we draw on.
_MAP_PX = np.array([600.0, 430.0])
_BORDER_PX = 24  # of the map around the outermost codes
_CHARACTER_PX = np.array([6.4, 14.0])
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
    labels: Mapping[int, str] | None = None,
    *,
    method: Method = "pca",
    seed: int = 0,
) -> go.Figure:
    """A map of the codebook: near codes have similar vectors, and large ones many tokens.

    Args:
        vectors: The code vectors.
        usage: Tokens in each code.
        labels: What codes mean, such as ``lens.concepts(texts).labels()``. The most used codes
            are named on the map; where there is no room for a name, the number stands alone.
        method: "pca", a linear projection whose axes say how much of the variance they show, or
            "tsne" (van der Maaten and Hinton 2008), which keeps neighbours together, but distances
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
    check_names(labels)
    points, axes = _projected(vectors, method, seed)
    colours = code_colours(vectors)
    used = usage > 0
    names = [code_name(code, (labels or {}).get(code, "")) for code in range(len(usage))]
    hovers = [
        f"code {name}<br>usage {count:,} tokens<br>share {share:.2%}"
        for name, count, share in zip(names, usage, usage / max(1, usage.sum()), strict=True)
    ]
    figure = go.Figure()
    _draw_unused(figure, points, ~used, hovers)
    _draw_used(figure, points, usage, hovers, labels or {}, colours)
    figure.update_xaxes(title_text=axes[0], zeroline=False)
    figure.update_yaxes(title_text=axes[1], zeroline=False)
    figure = themed(figure, title=f"Map of the codebook: {len(usage):,} codes", height=600)
    return figure.update_layout(showlegend=True, legend_itemsizing="constant")


def _projected(vectors: Float[np.ndarray, "k d"], method: str, seed: int) -> _Map:
    check_choice("method", method, get_args(Method))
    n, width = vectors.shape
    if n < 2 or not np.ptp(vectors, axis=0).any():  # nothing varies, so nothing to project
        return _Map(np.zeros((n, 2)), ("no variance to show", "no variance to show"))
    if method == "tsne":
        from sklearn.manifold import TSNE

        tsne = TSNE(
            perplexity=min(30.0, (n - 1) / 3),
            init="pca" if min(n, width) >= 2 else "random",
            random_state=seed,
        )
        axes = ("t-SNE 1 (only neighbourhoods mean something)", "t-SNE 2")
        return _Map(np.asarray(tsne.fit_transform(vectors), dtype=float), axes)
    found = principal_components(vectors)
    first, second = (
        f"principal component {i} ({share:.1%} of variance)"
        for i, share in enumerate(found.shares[:2], start=1)
    )
    return _Map(found.points[:, :2], (first, second))


def _draw_unused(
    figure: go.Figure,
    points: Float[np.ndarray, "k 2"],
    unused: Bool[np.ndarray, " k"],
    hovers: Sequence[str],
) -> None:
    if unused.any():
        figure.add_scatter(
            x=points[unused, 0],
            y=points[unused, 1],
            mode="markers",
            name=f"unused ({unused.sum():,})",
            legendrank=2,
            marker={"symbol": "circle-open", "size": 6, "color": COLOURS[5]},
            hovertext=np.asarray(hovers, dtype=object)[unused].tolist(),
            hovertemplate="%{hovertext}<extra></extra>",
        )


def _draw_used(
    figure: go.Figure,
    points: Float[np.ndarray, "k 2"],
    usage: Int[np.ndarray, " k"],
    hovers: Sequence[str],
    labels: Mapping[int, str],
    colours: Sequence[str],
) -> None:
    order = np.argsort(-usage, kind="stable")  # the largest first, so that they cover none
    order = order[usage[order] > 0]
    if not len(order):
        return
    codes = order.tolist()
    own = [colours[code] for code in codes]
    names = [code_name(code, labels.get(code, ""), width=_NAME_WIDTH) for code in codes]
    diameters = _LARGEST_PX * np.sqrt(usage[order] / usage.max())
    shown = _names_with_room(points[order], names, diameters)
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
            "color": own,
            "opacity": 0.7,
            "line": {"width": 1, "color": own},
        },
        text=[name for name, _ in shown],
        textposition=[side for _, side in shown],
        textfont={"size": 11},
        hovertext=[hovers[code] for code in order],
        hovertemplate="%{hovertext}<extra></extra>",
        cliponaxis=False,
    )


def _names_with_room(
    points: Float[np.ndarray, "n 2"], names: Sequence[str], diameters: Float[np.ndarray, " n"]
) -> list[tuple[str, str]]:
    """For each code its name, its number, or nothing, so that no text covers another; and a side.

    The first codes choose first, so that much used ones have their names.
    """
    low, span = points.min(0), np.ptp(points, axis=0)
    centres = (points - low) / np.where(span > 0, span, 1) * _MAP_PX
    taken_middles = np.array(centres)
    taken_halves = np.repeat(0.35 * diameters[:, None], 2, axis=1)
    shown: list[tuple[str, str]] = []
    for place, name in enumerate(names):
        found = ("", "top center")
        number = name.split(" ")[0]
        for text in dict.fromkeys((name, number)):
            half = np.array([len(html.unescape(text)), 1]) * _CHARACTER_PX / 2
            for side, direction in _SIDES.items():
                middle = centres[place] + np.array(direction) * (half + diameters[place] / 2)
                inside = (np.abs(middle - _MAP_PX / 2) + half <= _MAP_PX / 2 + _BORDER_PX).all()
                apart = (np.abs(middle - taken_middles) >= half + taken_halves).any(1).all()
                if inside and apart:
                    found = (text, side)
                    taken_middles = np.vstack([taken_middles, middle])
                    taken_halves = np.vstack([taken_halves, half])
                    break
            if found[0]:
                break
        shown.append(found)
    return shown
