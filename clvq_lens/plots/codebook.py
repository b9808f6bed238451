"""The codebook as a map: code vectors in two dimensions, with usage as size."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Bool, Float, Int

from clvq_lens.errors import ConfigError, ShapeError
from clvq_lens.plots.text import code_name
from clvq_lens.plots.theme import COLOURS, themed

Method = Literal["pca", "tsne"]

_LARGEST_PX = 40  # diameter of the most used code
_N_NAMED = 14
_N_TRIED = 60  # in the thick of the map there is no room for a name
_NAME_WIDTH = 20
# Names are kept from overlapping on a map of this size, the smallest that we draw on.
_MAP_PX = np.array([600.0, 420.0])
_BORDER_PX = 24  # of the map around the outermost codes
_CHARACTER_PX = np.array([7.0, 16.0])
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
        labels: What codes mean, such as ``lens.concepts(texts).labels()``; the most used codes
            are named on the map as far as there is room.
        method: "pca", a linear projection whose axes say how much of the variance they show, or
            "tsne" (van der Maaten and Hinton 2008), which keeps neighbours together, but distances
            between groups mean little.
        seed: Of t-SNE.

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
    points, axes = _projected(vectors, method, seed)
    used = usage > 0
    names = [code_name(code, (labels or {}).get(code, "")) for code in range(len(usage))]
    hovers = [
        f"code {name}<br>usage {count:,} tokens<br>share {share:.2%}"
        for name, count, share in zip(names, usage, usage / max(1, usage.sum()), strict=True)
    ]
    figure = go.Figure()
    _draw_unused(figure, points, ~used, hovers)
    _draw_used(figure, points, usage, hovers, labels or {})
    figure.update_xaxes(title_text=axes[0], zeroline=False)
    figure.update_yaxes(title_text=axes[1], zeroline=False)
    figure = themed(figure, title=f"Map of the codebook: {len(usage):,} codes", height=600)
    return figure.update_layout(showlegend=True, legend_itemsizing="constant")


def _projected(vectors: Float[np.ndarray, "k d"], method: str, seed: int) -> _Map:
    if method not in ("pca", "tsne"):
        raise ConfigError(f"There is no method {method!r} for a map. Choose 'pca' or 'tsne'.")
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
    from sklearn.decomposition import PCA

    pca = PCA(min(2, n, width), random_state=seed)
    points, shares = pca.fit_transform(vectors), pca.explained_variance_ratio_
    if points.shape[1] < 2:
        points, shares = np.pad(points, ((0, 0), (0, 1))), np.append(shares, 0)
    first, second = (
        f"principal component {i} ({share:.1%} of the variance of code vectors)"
        for i, share in enumerate(shares, start=1)
    )
    return _Map(points, (first, second.replace(" of code vectors", "")))


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
) -> None:
    order = np.argsort(-usage, kind="stable")  # the largest first, so that they cover none
    order = order[usage[order] > 0]
    if not len(order):
        return
    names = [code_name(int(code), labels.get(int(code), ""), width=_NAME_WIDTH) for code in order]
    diameters = _LARGEST_PX * np.sqrt(usage[order] / usage.max())
    sides = _sides_of_names(points[order], names, diameters)
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
            "color": COLOURS[0],
            "opacity": 0.5,
            "line": {"width": 1, "color": COLOURS[0]},
        },
        text=[name if place in sides else "" for place, name in enumerate(names)],
        textposition=[sides.get(place, "top center") for place in range(len(order))],
        textfont={"size": 12},
        hovertext=[hovers[code] for code in order],
        hovertemplate="%{hovertext}<extra></extra>",
        cliponaxis=False,
    )


def _sides_of_names(
    points: Float[np.ndarray, "n 2"], names: Sequence[str], diameters: Float[np.ndarray, " n"]
) -> dict[int, str]:
    """Where names of the first codes may stand without covering another; none where they cannot."""
    low, span = points.min(0), np.ptp(points, axis=0)
    at = (points - low) / np.where(span > 0, span, 1) * _MAP_PX
    taken = [
        (centre, np.full(2, 0.35 * width)) for centre, width in zip(at, diameters, strict=True)
    ]
    sides: dict[int, str] = {}
    for place in range(min(_N_TRIED, len(names))):
        half = np.array([len(names[place]), 1]) * _CHARACTER_PX / 2
        for side, direction in _SIDES.items():
            middle = at[place] + np.array(direction) * (half + diameters[place] / 2)
            inside = (middle - half >= -_BORDER_PX).all() and (
                middle + half <= _MAP_PX + _BORDER_PX
            ).all()
            if inside and all((np.abs(middle - other) >= half + its).any() for other, its in taken):
                taken.append((middle, half))
                sides[place] = side
                break
        if len(sides) == _N_NAMED:
            break
    return sides
