"""How concepts flow from layer to layer."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from clvq_lens.plots.inputs import HasFrame, as_frame
from clvq_lens.plots.sankey import OTHER, Column, Flow, Groups, middles, node_colours, thinned
from clvq_lens.plots.text import plain, shortened, spelled, visible
from clvq_lens.plots.theme import COLOURS, TEXT, themed

_FLOW_HEIGHT = 420  # pixels that all tokens take
_GAP = 15  # pixels between nodes: a line of text, so that labels never overlap
_ABOVE, _BELOW = 120, 30  # margins in pixels
_FONT = 12
_INSET = 5  # pixels between the edge of a node and its label
_CHARACTER = 6.6  # pixels, on average
# By itself plotly sorts links by where it would have put the nodes. Version 6 knows no other way.
_IN_ORDER = {"sort": "input"} if hasattr(go.sankey.Link, "sort") else {}


def plot_causal_flow(frame: pd.DataFrame) -> go.Figure:
    """Causal against observed flow: every pair of codes a point, beside its control.

    Args:
        frame: From `CausalFlow.frame()`.
    """
    rows = frame[frame["n_both"] > 0]
    columns = ("source", "code", "target", "next_code", "n_both")
    names = [
        f"{source} code {code} to {target} code {following}<br>{n_both} tokens"
        for source, code, target, following, n_both in zip(
            *(rows[column] for column in columns), strict=True
        )
    ]
    observed = np.asarray(rows["observed"], dtype=float)
    figure = go.Figure()
    shown = (("control", "codes of the same share", COLOURS[5]), ("effect", "code", COLOURS[0]))
    for column, who, colour in shown:
        figure.add_scattergl(
            x=observed,
            y=np.asarray(rows[column], dtype=float),
            text=names,
            mode="markers",
            name=f"{who} ablated",
            marker={"color": colour, "size": 6, "opacity": 0.5},
            hovertemplate="%{text}<br>observed %{x:.3f}<br>change %{y:.3f}<extra></extra>",
        )
    line = {"color": COLOURS[5], "dash": "dot"}
    figure.add_scatter(
        x=[0, 1], y=[0, -1], mode="lines", line=line, name="all of it lost", hoverinfo="skip"
    )
    figure.update_xaxes(title_text="observed: chance of the next code, given the code")
    figure.update_yaxes(title_text="causal: change of the next code<br>per ablated token")
    return themed(figure, title="Observed and causal flow of concepts", height=520)


def plot_flow(
    flow: pd.DataFrame | HasFrame,
    *,
    labels: Mapping[str, Mapping[int, str]] | None = None,
    n_nodes: int = 15,
    groups: Groups | None = None,
    colours: Mapping[str, Sequence[str]] | None = None,
    title: str = "Flow of concepts",
) -> go.Figure:
    """A Sankey diagram of tokens flowing from stage to stage.

    At every stage the tokens add up to all of them: nodes that do not stand for themselves are
    summed by their group, or as "other". Columns are ordered so that few ribbons cross.

    Args:
        flow: From `concept_flow`, or its ``.frame()``.
        labels: Names of codes, for each stage by its name.
        n_nodes: How many nodes of each stage stand for themselves: those between which most
            tokens flow. With 0, only groups are shown.
        groups: Of nodes, for each stage by its name: ``{"token": {13: "numbers"}}``.
        colours: Of the codes of each stage by its name, from `code_colours`.
        title: Of the figure; the number of tokens follows it.
    """
    thin = thinned(as_frame(flow), n_nodes, groups)
    width = _lane_width(len(thin.columns))
    names = [
        _node_names(column, (labels or {}).get(column.name, {}), n_nodes > 0)
        for column in thin.columns
    ]
    places = np.linspace(0.0, 1.0, len(thin.columns))
    gaps = _GAP * (max(len(column.nodes) for column in thin.columns) - 1)
    height = gaps + max(_FLOW_HEIGHT, gaps)  # plotly narrows gaps of more than two thirds
    heights = middles(thin, share_of_gaps=gaps / height)
    figure = go.Figure(
        _sankey(thin, names, node_colours(thin, colours or {}), heights, places, width)
    )
    for column, name, y, x in zip(thin.columns, names, heights, places, strict=True):
        _write_labels(figure, column, name, 1 - y, x, width)
    figure = themed(
        figure,
        title=f"{plain(title)}: {thin.n_tokens:,} tokens",
        height=height + _ABOVE + _BELOW,
    )
    side = width // 2 + 12
    return figure.update_layout(margin={"l": side, "r": side, "t": _ABOVE, "b": _BELOW})


def _lane_width(n_stages: int) -> int:
    """Pixels of a node, whose label stands inside; many stages have to share the page."""
    return max(72, min(160, 620 // n_stages - 20))


def _node_names(column: Column, labels: Mapping[int, str], are_rest: bool) -> list[str]:
    """What stands on each node, not yet cut or escaped; ``are_rest``: groups hold what is left."""
    names = []
    for node in column.nodes:
        if node == OTHER:
            names.append("other")
        elif node < 0:
            names.append(f"other {column.texts[node]}" if are_rest else column.texts[node])
        elif column.is_token:
            text = column.texts[node]
            names.append(" " * (text.startswith(" ") and text != " ") + spelled(text))
        else:
            label = labels.get(node, "")
            names.append(f"{node} {label if label.strip() else visible(label)}".strip())
    return names


def _shown(column: Column, node: int, name: str, width: int | None = None) -> str:
    """A name as it is shown: that of a group with the number of its members."""
    count = f" ({len(column.members[node]):,})" if node < 0 else ""
    name = name if width is None else shortened(name, max(1, width - len(count)))
    return (visible(name) if column.is_token and not count else plain(name)) + count


def _sankey(
    flow: Flow,
    names: Sequence[Sequence[str]],
    colours: Sequence[Mapping[int, str]],
    heights: Sequence[np.ndarray],
    places: np.ndarray,
    width: int,
) -> go.Sankey:
    columns = list(enumerate(flow.columns))
    hovers = [
        f"<b>{plain(column.name)}: {_shown(column, node, name)}</b><br>"
        f"{column.sizes[node]:,} tokens, {column.sizes[node] / flow.n_tokens:.1%} of all"
        for index, column in columns
        for node, name in zip(column.nodes, names[index], strict=True)
    ]
    fills = [
        translucent(colours[index][node], 0.2) for index, column in columns for node in column.nodes
    ]
    return go.Sankey(
        arrangement="fixed",
        node={
            # plotly takes a place of exactly 0 for one that is not given
            "x": np.repeat(np.maximum(places, 1e-6), [len(column.nodes) for _, column in columns]),
            "y": np.concatenate(heights),
            "color": fills,
            "thickness": width,
            "pad": _GAP,
            "line": {"width": 0},
            "customdata": hovers,
            "hovertemplate": "%{customdata}<extra></extra>",
        },
        link={
            **_links(flow, names, colours),
            **_IN_ORDER,
            "hovertemplate": "%{customdata}<extra></extra>",
        },
    )


def _links(
    flow: Flow, names: Sequence[Sequence[str]], colours: Sequence[Mapping[int, str]]
) -> dict[str, list[Any]]:
    """All links, from the top at both of their ends."""
    starts = np.cumsum([0, *(len(column.nodes) for column in flow.columns)]).tolist()
    links: dict[str, list[Any]] = {
        part: [] for part in ("source", "target", "value", "color", "customdata")
    }
    for index, pairs in enumerate(flow.links):
        first, second = flow.columns[index : index + 2]
        for a, code in enumerate(first.nodes):
            for b, following in enumerate(second.nodes):
                if (code, following) not in pairs:
                    continue
                links["source"].append(starts[index] + a)
                links["target"].append(starts[index + 1] + b)
                links["value"].append(pairs[code, following])
                links["color"].append(_link_colour(code, following, colours[index : index + 2]))
                here = _shown(first, code, names[index][a])
                there = _shown(second, following, names[index + 1][b])
                sizes = (first.sizes[code], second.sizes[following], flow.n_tokens)
                links["customdata"].append(_hover(here, there, pairs[code, following], *sizes))
    return links


def _hover(here: str, there: str, count: int, n_here: int, n_there: int, n_tokens: int) -> str:
    return (
        f"<b>{here} \u2192 {there}</b><br>{count:,} tokens<br>"
        f"{count / n_here:.1%} of those of {here}<br>"
        f"{count / n_there:.1%} of those of {there}<br>"
        f"lift over independence {count * n_tokens / (n_here * n_there):.2f}"
    )


def _link_colour(code: int, following: int, colours: Sequence[Mapping[int, str]]) -> str:
    """That of where it comes from, fainter where one end is no single node."""
    first, second = colours
    if code == OTHER:
        return translucent(second[following], 0.1 if following == OTHER else 0.2)
    return translucent(first[code], 0.25 if code < 0 or following < 0 else 0.45)


def _write_labels(
    figure: go.Figure,
    column: Column,
    names: Sequence[str],
    heights: np.ndarray,
    place: float,
    width: int,
) -> None:
    """The name of the stage above its column, and that of each node on it."""
    what = "distinct token" if column.is_token else "code"
    what += "" if column.n_nodes == 1 else "s"
    title = shortened(column.name, int(width / _CHARACTER))
    common: dict[str, Any] = {"x": place, "xref": "paper", "yref": "paper", "showarrow": False}
    figure.add_annotation(
        **common,
        y=1,
        yshift=18,
        xanchor="center",
        yanchor="bottom",
        text=f"<b>{plain(title)}</b><br>{column.n_nodes:,} {what}",
        font={"size": 13, "color": TEXT},
    )
    for node, name, height in zip(column.nodes, names, heights, strict=True):
        figure.add_annotation(
            **common,
            y=height,
            xanchor="left",
            xshift=_INSET - width / 2,
            yanchor="middle",
            align="left",
            text=_shown(column, node, name, int((width - 2 * _INSET) / _CHARACTER)),
            font={"size": _FONT, "color": TEXT},
        )


def translucent(colour: str, opacity: float) -> str:
    """A colour through which the page shows.

    Args:
        colour: As ``#rrggbb``.
        opacity: From 0 to 1.
    """
    red, green, blue = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, {opacity})"
