"""How concepts flow from layer to layer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float

from clvq_lens.plots.inputs import HasFrame, as_frame, numbers
from clvq_lens.plots.sankey import OTHER, Column, Flow, Groups, middles, node_colors, thinned
from clvq_lens.plots.text import plain, shortened, spelled, visible
from clvq_lens.plots.theme import (
    BLUE,
    FONT_PX,
    GRAY,
    SMALL_FONT_PX,
    themed,
    translucent,
)

# Pixels.
_FLOW_HEIGHT = 420  # that all tokens take
_GAP = 15  # between nodes: a line of text, so that names never overlap
_ABOVE, _BELOW = 120, 30  # margins
_THIN_PX = 10  # a thinner node would cross out a name in its middle
_INSET = 5  # between the edge of a node and its name
_CHARACTER = 6.6  # on average
_SMALLEST_DOT_PX, _LARGEST_DOT_PX = 5, 24  # of a pair of codes
# By itself plotly sorts links by where it would have put the nodes. Version 6 knows no other way.
_IN_ORDER = {"sort": "input"} if hasattr(go.sankey.Link, "sort") else {}


def plot_causal_flow(frame: pd.DataFrame) -> go.Figure:
    """Causal against observed flow: every pair of codes a point, beside its control.

    Points are as large as the pair has tokens: fractions of few tokens are often 0 or 1 by chance.

    Args:
        frame: From `CausalFlow.frame()`.
    """
    rows = frame.loc[frame["n_both"] > 0]
    hovers: list[str] = []
    columns = rows.loc[:, ["source", "code", "target", "next_code", "n_both"]]
    for source, code, target, following, n_both in columns.itertuples(index=False):
        pair = plain(f"{source} code {code} to {target} code {following}")
        hovers.append(f"{pair}<br>{n_both} tokens")
    n_tokens = numbers(rows, "n_both")
    sizes = {
        "size": n_tokens,
        "sizemode": "area",
        "sizeref": 2 * float(n_tokens.max(initial=1.0)) / _LARGEST_DOT_PX**2,
        "sizemin": _SMALLEST_DOT_PX,
        "line": {"width": 0},
    }
    figure = go.Figure()
    # The control comes first, so that it never covers what was measured.
    for column, series, color in (
        ("control", "control: other codes<br>that occur with the next code", GRAY),
        ("lost", "code ablated", BLUE),
    ):
        figure.add_scattergl(
            x=numbers(rows, "observed"),
            y=numbers(rows, column),
            text=hovers,
            mode="markers",
            name=series,
            marker={"color": color, "opacity": 0.65, **sizes},
            hovertemplate="%{text}<br>observed %{x:.3f}<br>lost %{y:.3f}<extra></extra>",
        )
    figure.update_xaxes(title_text="observed: chance of the next code, given the code")
    figure.update_yaxes(title_text="causal: tokens of both that leave<br>the next code (fraction)")
    figure = themed(figure, title="Observed and causal flow of concepts", height=520)
    return figure.update_layout(legend={"itemsizing": "constant", "traceorder": "reversed"})


def plot_flow(
    flow: pd.DataFrame | HasFrame,
    *,
    names: Mapping[str, Mapping[int, str]] | None = None,
    n_nodes: int = 15,
    groups: Groups | None = None,
    colors: Mapping[str, Sequence[str]] | None = None,
    title: str = "Flow of concepts",
) -> go.Figure:
    """A Sankey diagram of tokens flowing from stage to stage.

    At every stage the tokens add up to all of them: nodes that do not stand for themselves are
    summed by their group, or as "other". Columns are ordered so that few ribbons cross.

    Args:
        flow: From `concept_flow`, or its ``.frame()``.
        names: Names of codes, for each stage by its name.
        n_nodes: How many nodes of each stage stand for themselves: those between which most
            tokens flow. With 0, only groups are shown.
        groups: Groups of nodes, for each stage by its name: ``{"token": {13: "numbers"}}``.
        colors: Colors of the codes of each stage by its name, from `code_colors`.
        title: Title of the figure; the number of tokens follows it.
    """
    thin = thinned(as_frame(flow), n_nodes, groups)
    width = _node_width(len(thin.columns))
    longest = max(len(column.nodes) for column in thin.columns)
    gaps = _GAP * (longest - 1)
    height = gaps + max(_FLOW_HEIGHT, gaps)  # plotly narrows gaps of more than two thirds
    places = np.linspace(0.0, 1.0, len(thin.columns))
    heights = middles(thin, share_of_gaps=gaps / height)
    nodes: list[list[_Node]] = []
    for column, its_colors in zip(thin.columns, node_colors(thin, colors or {}), strict=True):
        its_names = (names or {}).get(column.name, {})
        nodes.append(_nodes(column, its_names, its_colors, groups_are_rest=n_nodes > 0))
    figure = go.Figure(_sankey(thin, nodes, heights, places, width))
    for index, column in enumerate(thin.columns):
        _write_stage(figure, column, places[index], width)
        token_px = (height - gaps) / thin.n_tokens
        _write_names(figure, nodes[index], 1 - heights[index], places[index], width, token_px)
    figure = themed(
        figure,
        title=f"{plain(title)}: {thin.n_tokens:,} tokens",
        height=height + _ABOVE + _BELOW,
    )
    side = width // 2 + 12  # half of the first and of the last node stand in the margin
    return figure.update_layout(margin={"l": side, "r": side, "t": _ABOVE, "b": _BELOW})


def _node_width(n_stages: int) -> int:
    """Pixels of a node, whose name stands inside; many stages have to share the page."""
    return max(72, min(160, 620 // n_stages - 20))


@dataclass(frozen=True)
class _Node:
    """A node as it is drawn.

    Attributes:
        number: Code or token id, or the negative number of a group.
        name: What stands on it, not yet cut or escaped.
        count: How many members a group has, such as " (35)"; "" for a single node.
        is_token: Whether the node is a single token, whose spaces are shown.
        size: Tokens in it.
        color: As ``#rrggbb``.
    """

    number: int
    name: str
    count: str
    is_token: bool
    size: int
    color: str

    def shown(self, width: int | None = None) -> str:
        """Name and count, safe to show, and cut to so many characters."""
        name = self.name
        if width is not None:
            name = shortened(name, max(1, width - len(self.count)))
        return (visible(name) if self.is_token else plain(name)) + self.count


def _nodes(
    column: Column, names: Mapping[int, str], colors: Mapping[int, str], *, groups_are_rest: bool
) -> list[_Node]:
    """The nodes of a column; ``groups_are_rest``: groups hold what does not stand for itself."""
    nodes: list[_Node] = []
    for number in column.nodes:
        is_group = number < 0
        if number == OTHER:
            name = "other"
        elif is_group:
            name = f"other {column.texts[number]}" if groups_are_rest else column.texts[number]
        elif column.is_token:
            name = _spelled_with_space(column.texts[number])
        else:
            name = _numbered(number, names.get(number, ""))
        count = f" ({len(column.members[number]):,})" if is_group else ""
        is_token = column.is_token and not is_group
        nodes.append(_Node(number, name, count, is_token, column.sizes[number], colors[number]))
    return nodes


def _spelled_with_space(token: str) -> str:
    """A token with marks written out; the space before it stays, as part of the token."""
    begins_word = token.startswith(" ") and token != " "
    return " " + spelled(token) if begins_word else spelled(token)


def _numbered(code: int, name: str) -> str:
    meaning = name if name.strip() else visible(name)  # a name of white space would not be seen
    return f"{code} {meaning}".strip()


def _sankey(
    flow: Flow,
    nodes: Sequence[Sequence[_Node]],
    heights: Sequence[Float[np.ndarray, " _"]],
    places: Float[np.ndarray, " stage"],
    width: int,
) -> go.Sankey:
    hovers: list[str] = []
    fills: list[str] = []
    for column, its_nodes in zip(flow.columns, nodes, strict=True):
        for node in its_nodes:
            share = node.size / flow.n_tokens
            hovers.append(
                f"<b>{plain(column.name)}: {node.shown()}</b><br>"
                f"{node.size:,} tokens, {share:.1%} of all"
            )
            fills.append(translucent(node.color, 0.2))
    return go.Sankey(
        arrangement="fixed",
        node={
            # plotly takes a place of exactly 0 for one that is not given
            "x": np.repeat(np.maximum(places, 1e-6), [len(its_nodes) for its_nodes in nodes]),
            "y": np.concatenate(heights),
            "color": fills,
            "thickness": width,
            "pad": _GAP,
            "line": {"width": 0},
            "customdata": hovers,
            "hovertemplate": "%{customdata}<extra></extra>",
        },
        link={
            **_links(flow, nodes),
            **_IN_ORDER,
            "hovertemplate": "%{customdata}<extra></extra>",
        },
    )


def _links(flow: Flow, nodes: Sequence[Sequence[_Node]]) -> dict[str, list[object]]:
    """All links, from the top at both of their ends."""
    sources: list[object] = []
    targets: list[object] = []
    counts: list[object] = []
    colors: list[object] = []
    hovers: list[object] = []
    start = 0  # nodes are numbered through from the first stage to the last
    for pairs, (first, second) in zip(flow.links, pairwise(nodes), strict=True):
        for a, here in enumerate(first):
            for b, there in enumerate(second):
                count = pairs.get((here.number, there.number))
                if count is None:
                    continue
                sources.append(start + a)
                targets.append(start + len(first) + b)
                counts.append(count)
                colors.append(_link_color(here, there))
                hovers.append(_link_hover(here, there, count, flow.n_tokens))
        start += len(first)
    return {
        "source": sources,
        "target": targets,
        "value": counts,
        "color": colors,
        "customdata": hovers,
    }


def _link_hover(here: _Node, there: _Node, count: int, n_tokens: int) -> str:
    name, next_name = here.shown(), there.shown()
    lift = count * n_tokens / (here.size * there.size)
    return (
        f"<b>{name} \u2192 {next_name}</b><br>{count:,} tokens<br>"
        f"{count / here.size:.1%} of those of {name}<br>"
        f"{count / there.size:.1%} of those of {next_name}<br>"
        f"lift over independence {lift:.2f}"
    )


def _link_color(here: _Node, there: _Node) -> str:
    """The color of where a link comes from, fainter where one end is not a single node."""
    if here.number == OTHER:
        return translucent(there.color, 0.1 if there.number == OTHER else 0.2)
    is_between_nodes = here.number >= 0 and there.number >= 0
    return translucent(here.color, 0.45 if is_between_nodes else 0.25)


def _write_stage(figure: go.Figure, column: Column, place: float, width: int) -> None:
    """Writes the name of a stage above its column, and how many nodes it had."""
    what = "distinct token" if column.is_token else "code"
    if column.n_nodes != 1:
        what += "s"
    name = shortened(column.name, int(width / _CHARACTER))
    figure.add_annotation(
        text=f"<b>{plain(name)}</b><br>{column.n_nodes:,} {what}",
        x=place,
        xref="paper",
        xanchor="center",
        y=1,
        yref="paper",
        yanchor="bottom",
        yshift=18,
        showarrow=False,
        font_size=FONT_PX,
    )


def _write_names(
    figure: go.Figure,
    nodes: Sequence[_Node],
    heights: Float[np.ndarray, " n"],
    place: float,
    width: int,
    token_px: float,
) -> None:
    """Writes the name of each node on it: plotly itself writes beside nodes, over the links.

    A node that is thinner than its name underlines it. ``token_px``: height of one token.
    """
    n_characters = int((width - 2 * _INSET) / _CHARACTER)
    for node, height in zip(nodes, heights, strict=True):
        node_px = node.size * token_px
        above = node_px / 2 if node_px < _THIN_PX else None
        figure.add_annotation(
            text=node.shown(n_characters),
            x=place,
            xref="paper",
            xanchor="left",
            xshift=_INSET - width / 2,
            y=height,
            yref="paper",
            yanchor="middle" if above is None else "bottom",
            yshift=above,
            borderpad=0,  # else names in a gap of one line would overlap
            align="left",
            showarrow=False,
            font_size=SMALL_FONT_PX,
        )
