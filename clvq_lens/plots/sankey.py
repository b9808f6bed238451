"""The Sankey diagram of a concept flow: which nodes stand for themselves, and where they stand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from clvq_lens.plots.colors import NO_CODE, color_of, color_of_group

OTHER = -1  # stands for all nodes of a stage that are not shown and belong to no group
_FIRST_GROUP = -2  # the groups of a flow have the numbers from here downwards
_SWEEPS = 4  # passes over the stages in which nodes are chosen by their neighbors
_ROUNDS = 12  # passes over the stages in which nodes are sorted by their neighbors

Groups = Mapping[str, Mapping[int, str]]
"""The group of nodes of a stage, by the name of the stage."""


@dataclass
class Column:
    """A stage as it is drawn.

    Attributes:
        name: Name of the stage.
        n_nodes: Distinct nodes before thinning.
        is_token: Whether nodes are tokens.
        nodes: Those that stand for themselves, groups of others, and `OTHER`; from the top.
        sizes: Tokens in each of them.
        texts: What each token, and each group, is called.
        members: The nodes in each group and in `OTHER`.
    """

    name: str
    n_nodes: int
    is_token: bool
    nodes: list[int]
    sizes: dict[int, int]
    texts: Mapping[int, str]
    members: dict[int, list[int]]


@dataclass
class Flow:
    """A thinned flow.

    Attributes:
        columns: The stages from left to right.
        links: For each pair of neighboring columns, tokens of (node, next node).
    """

    columns: list[Column]
    links: list[dict[tuple[int, int], int]]

    @property
    def n_tokens(self) -> int:
        """Tokens, as many at every stage."""
        return sum(self.columns[0].sizes.values())


def thinned(frame: pd.DataFrame, n_nodes: int, groups: Groups | None = None) -> Flow:
    """The flow between the nodes that matter, and the rest of each stage in groups.

    Those nodes matter between which most tokens flow: beginning with the commonest ones, each
    stage in turn takes the nodes that share most tokens with those taken next to it. Nothing is
    left out: at every stage the tokens add up to all tokens.

    Args:
        frame: From `ConceptFlow.frame()`.
        n_nodes: How many nodes of a stage stand for themselves; a group of one does so too.
        groups: What the others are summed as; those without a group are summed as one node.
    """
    groups = groups or {}
    stages, steps = _stages_and_steps(frame)
    is_shown = _chosen(stages, steps, n_nodes)
    numbers = _group_numbers(groups)
    standins: list[Int[np.ndarray, " n"]] = []
    columns: list[Column] = []
    for stage, shown in zip(stages, is_shown, strict=True):
        its_standins = _standins(stage, shown, groups.get(stage.name, {}), numbers)
        standins.append(its_standins)
        columns.append(stage.column(its_standins, numbers))
    links: list[dict[tuple[int, int], int]] = []
    for step, (here, there) in zip(steps, pairwise(standins), strict=True):
        links.append(_sums_of_pairs(here[step.first], there[step.second], step.counts))
    flow = Flow(columns, links)
    _untangle(flow)
    return flow


def _group_numbers(groups: Groups) -> dict[str, int]:
    """The number of each group, the same at every stage."""
    names: set[str] = set()
    for nodes in groups.values():
        names.update(nodes.values())
    # In order of their names: a set has none, and the numbers decide the colors.
    return {name: _FIRST_GROUP - index for index, name in enumerate(sorted(names))}


def _standins(
    stage: "_Stage",
    shown: Bool[np.ndarray, " n"],
    groups: Mapping[int, str],
    numbers: Mapping[str, int],
) -> Int[np.ndarray, " n"]:
    """For each node of a stage itself if it is shown, and else its group."""
    standins = stage.nodes.copy()
    for index in np.flatnonzero(~shown):
        name = groups.get(int(stage.nodes[index]))
        standins[index] = OTHER if name is None else numbers[name]
    # A group of one takes as much room as its member, and says less.
    for group in np.unique(standins[~shown]):
        members = standins == group
        if members.sum() == 1:
            standins[members] = stage.nodes[members]
    return standins


def stage_names(frame: pd.DataFrame) -> list[str]:
    """The stages of a flow from first to last.

    Args:
        frame: From `ConceptFlow.frame()`.
    """
    following = dict(zip(frame["source"].tolist(), frame["target"].tolist(), strict=True))
    # The first stage is the one that nothing leads to.
    name = next(iter(following.keys() - set(following.values())))
    names = [name]
    while name in following:
        name = following[name]
        names.append(name)
    return names


@dataclass
class _Hop:
    """Counts of pairs between two stages, as running numbers of their nodes."""

    first: Int[np.ndarray, " m"]
    second: Int[np.ndarray, " m"]
    counts: Int[np.ndarray, " m"]


@dataclass
class _Stage:
    """All nodes of a stage, in order, before thinning."""

    name: str
    nodes: Int[np.ndarray, " n"]
    n_tokens: Int[np.ndarray, " n"]
    texts: list[str]

    def column(self, standins: Int[np.ndarray, " n"], numbers: Mapping[str, int]) -> Column:
        """The stage, with some of its nodes summed as others that stand for them."""
        sizes: dict[int, int] = {}
        members: dict[int, list[int]] = {}
        texts = {number: name for name, number in numbers.items()}
        for index, standin in enumerate(standins.tolist()):
            sizes[standin] = sizes.get(standin, 0) + int(self.n_tokens[index])
            if standin < 0:
                members.setdefault(standin, []).append(int(self.nodes[index]))
            else:
                texts[standin] = self.texts[index]
        # Nodes, then groups, then the rest; a stable sort keeps the order within each.
        nodes = sorted(sizes, key=lambda node: (node < 0, node == OTHER))
        return Column(self.name, len(standins), any(self.texts), nodes, sizes, texts, members)


def _stages_and_steps(frame: pd.DataFrame) -> tuple[list[_Stage], list[_Hop]]:
    stages: list[_Stage] = []
    steps: list[_Hop] = []
    for source, target in pairwise(stage_names(frame)):
        rows = frame.loc[frame["source"] == source]
        counts = np.asarray(rows["count"], dtype=np.int64)
        if not stages:
            stage, first = _stage(rows, source, "code", "text", counts)
            stages.append(stage)
        else:
            # Every node was met before: as many tokens leave a stage as came into it.
            first = np.searchsorted(stages[-1].nodes, np.asarray(rows["code"]))
        stage, second = _stage(rows, target, "next_code", "next_text", counts)
        stages.append(stage)
        steps.append(_Hop(first, second, counts))
    return stages, steps


def _stage(
    rows: pd.DataFrame, name: str, node: str, text: str, counts: Int[np.ndarray, " m"]
) -> tuple[_Stage, Int[np.ndarray, " m"]]:
    """A stage, and the running number of the node in each row."""
    nodes, first, numbers = np.unique(rows[node].to_numpy(), return_index=True, return_inverse=True)
    texts = [""] * len(nodes)
    if text in rows:
        texts = list(map(str, np.asarray(rows[text])[first]))
    return _Stage(name, nodes, _sums(numbers, counts, len(nodes)), texts), numbers


def _sums(
    numbers: Int[np.ndarray, " m"], counts: Int[np.ndarray, " m"], n: int
) -> Int[np.ndarray, " n"]:
    return np.bincount(numbers, counts, n).astype(np.int64)


def _sums_of_pairs(
    codes: Int[np.ndarray, " m"], following: Int[np.ndarray, " m"], counts: Int[np.ndarray, " m"]
) -> dict[tuple[int, int], int]:
    pairs, numbers = np.unique(np.stack([codes, following], axis=1), axis=0, return_inverse=True)
    # numpy 2.0 gives the numbers an axis more than other versions do.
    sums = _sums(numbers.ravel(), counts, len(pairs))
    return dict(zip(map(tuple, pairs.tolist()), sums.tolist(), strict=True))


def _chosen(
    stages: Sequence[_Stage], steps: Sequence[_Hop], n_nodes: int
) -> list[Bool[np.ndarray, " _"]]:
    """Which nodes of each stage share most tokens with those chosen next to it.

    The commonest nodes are chosen first, and then each stage in turn adapts to its neighbors: a
    local optimum, found in a few sweeps.
    """
    chosen = [_largest(stage.n_tokens, stage.n_tokens, n_nodes) for stage in stages]
    for _ in range(_SWEEPS):
        for index, stage in enumerate(stages):
            shared = np.zeros(len(stage.nodes), dtype=np.int64)
            if index > 0:
                step = steps[index - 1]
                counts = step.counts * chosen[index - 1][step.first]
                shared += _sums(step.second, counts, len(shared))
            if index < len(steps):
                step = steps[index]
                counts = step.counts * chosen[index + 1][step.second]
                shared += _sums(step.first, counts, len(shared))
            chosen[index] = _largest(shared, stage.n_tokens, n_nodes)
    return chosen


def _largest(
    shared: Int[np.ndarray, " n"], n_tokens: Int[np.ndarray, " n"], n_nodes: int
) -> Bool[np.ndarray, " n"]:
    """The nodes that share most; of equal ones the commonest."""
    chosen = np.zeros(len(shared), dtype=bool)
    chosen[np.lexsort((-n_tokens, -shared))[:n_nodes]] = True
    return chosen


def _untangle(flow: Flow) -> None:
    """Sorts the nodes of each stage by the mean place of their neighbors, the rest at the end.

    This is the barycenter method (Sugiyama et al. 1981), to the right and back; the order in which
    the fewest tokens cross is kept.
    """
    best = _orders(flow)
    fewest = crossings(flow)
    for sweep in range(_ROUNDS):
        if sweep % 2 == 0:
            _sort_to_the_right(flow)
        else:
            _sort_to_the_left(flow)
        # A sweep may make it worse: the method does not converge.
        crossing = crossings(flow)
        if crossing < fewest:
            fewest = crossing
            best = _orders(flow)
    for column, nodes in zip(flow.columns, best, strict=True):
        column.nodes[:] = nodes


def _orders(flow: Flow) -> list[list[int]]:
    """The nodes of each column from the top, as they are now."""
    return [list(column.nodes) for column in flow.columns]


def _sort_to_the_right(flow: Flow) -> None:
    for index, links in enumerate(flow.links):
        turned = {(b, a): count for (a, b), count in links.items()}
        _sort(flow.columns[index + 1], flow.columns[index], turned)


def _sort_to_the_left(flow: Flow) -> None:
    for index in reversed(range(len(flow.links))):
        _sort(flow.columns[index], flow.columns[index + 1], flow.links[index])


def _sort(column: Column, by: Column, links: Mapping[tuple[int, int], int]) -> None:
    """Sorts a column by the mean place of its neighbors, in tokens from the top.

    Args:
        column: The column, whose order is changed.
        by: The column of its neighbors.
        links: Tokens of (node, neighbor).
    """
    place: dict[int, float] = {}
    top = 0
    for node in by.nodes:
        place[node] = (top + by.sizes[node] + top) / 2
        top += by.sizes[node]
    weighted = dict.fromkeys(column.nodes, 0.0)
    total = dict.fromkeys(column.nodes, 0)
    for (node, neighbor), count in links.items():
        weighted[node] += place[neighbor] * count
        total[node] += count
    column.nodes.sort(key=lambda node: (node == OTHER, weighted[node] / total[node]))


def crossings(flow: Flow) -> int:
    """Pairs of tokens whose ribbons cross, between all neighboring columns.

    Args:
        flow: The flow, with its columns in the order to judge.
    """
    total = 0
    for index, links in enumerate(flow.links):
        left, right = _ranks(flow.columns[index]), _ranks(flow.columns[index + 1])
        counts = np.zeros((len(left), len(right)), dtype=np.int64)
        for (a, b), count in links.items():
            counts[left[a], right[b]] = count
        # Tokens that start further down and end further up than those of each link.
        below = np.zeros((len(left) + 1, len(right) + 1), dtype=np.int64)
        below[:-1, 1:] = counts[::-1].cumsum(0)[::-1].cumsum(1)
        total += int((counts * below[1:, :-1]).sum())
    return total


def _ranks(column: Column) -> dict[int, int]:
    """How many nodes stand above each node."""
    return {node: rank for rank, node in enumerate(column.nodes)}


def middles(flow: Flow, *, share_of_gaps: float) -> list[Float[np.ndarray, " _"]]:
    """The middle of each node from the top, as fractions of the height, for every column.

    Columns end at the same height: those with fewer nodes have wider gaps.

    Args:
        flow: A thinned flow.
        share_of_gaps: Fraction of the height that the gaps of the longest column take.
    """
    heights: list[Float[np.ndarray, " _"]] = []
    for column in flow.columns:
        sizes = np.array([column.sizes[node] for node in column.nodes]) / flow.n_tokens
        sizes *= 1 - share_of_gaps
        gap = (1 - sizes.sum()) / max(1, len(sizes) - 1)
        tops = np.concatenate([[0.0], np.cumsum(sizes + gap)[:-1]])
        heights.append(tops + sizes / 2)
    return heights


def node_colors(flow: Flow, colors: Mapping[str, Sequence[str] | None]) -> list[dict[int, str]]:
    """A color for each node: codes have their own, and tokens that of their main neighbor.

    Groups have the same color at every stage, and `OTHER` is gray.

    Args:
        flow: A thinned flow.
        colors: Colors of the codes of each stage, from `code_colors`.
    """
    by_column: list[dict[int, str]] = []
    for column in flow.columns:
        its_colors: dict[int, str] = {}
        for node in column.nodes:
            if node <= _FIRST_GROUP:
                its_colors[node] = color_of_group(_FIRST_GROUP - node)
            elif node == OTHER or column.is_token:
                its_colors[node] = NO_CODE
            else:
                its_colors[node] = color_of(node, colors.get(column.name))
        by_column.append(its_colors)
    # Tokens come last, when the codes next to them have their colors.
    for index, column in enumerate(flow.columns):
        if column.is_token:
            _color_tokens(flow, by_column, index)
    return by_column


def _color_tokens(flow: Flow, colors: list[dict[int, str]], index: int) -> None:
    """Gives tokens the color of what most of them go to, or at the last stage come from."""
    is_last = index == len(flow.links)
    links = flow.links[index - 1] if is_last else flow.links[index]
    neighbors = colors[index - 1] if is_last else colors[index + 1]
    most = dict.fromkeys(flow.columns[index].nodes, 0)
    for (before, after), count in links.items():
        node, other = (after, before) if is_last else (before, after)
        if node >= 0 and other >= 0 and count > most[node]:
            most[node] = count
            colors[index][node] = neighbors[other]
