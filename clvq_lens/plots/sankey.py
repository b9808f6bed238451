"""The Sankey diagram of a concept flow: which nodes stand for themselves, and where they stand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd

from clvq_lens.plots.colours import NO_CODE, colour_of, colour_of_group

OTHER = -1  # stands for all nodes of a stage that are not shown and belong to no group
_FIRST_GROUP = -2  # the groups of a flow have the numbers from here downwards
_SWEEPS = 4  # passes over the stages in which nodes are chosen by their neighbours
_ROUNDS = 12  # passes over the stages in which nodes are sorted by their neighbours

Groups = Mapping[str, Mapping[int, str]]
"""The group of nodes of a stage, by the name of the stage."""


@dataclass
class Column:
    """A stage as it is drawn.

    Attributes:
        name: Of the stage.
        n_nodes: Distinct nodes before thinning.
        is_token: Whether nodes are tokens.
        nodes: Those that stand for themselves, groups of others, and `OTHER`; from the top.
        sizes: Tokens in each of them.
        texts: What each token, and each group, is called.
        members: Of each group and of `OTHER`: the nodes in it.
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
        links: For each pair of neighbouring columns, tokens of (node, next node).
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
    stages, steps = _stages_and_steps(frame)
    shown = _chosen(stages, steps, n_nodes)
    numbers = _group_numbers(groups or {})
    standins: list[np.ndarray] = []
    columns: list[Column] = []
    for stage, mask in zip(stages, shown, strict=True):
        nodes = _standins(stage, mask, (groups or {}).get(stage.name, {}), numbers)
        standins.append(nodes)
        columns.append(stage.column(nodes, numbers))
    links = [
        _sums_of_pairs(here[step.first], there[step.second], step.counts)
        for step, (here, there) in zip(steps, pairwise(standins), strict=True)
    ]
    flow = Flow(columns, links)
    _untangle(flow)
    return flow


def _group_numbers(groups: Groups) -> dict[str, int]:
    """The number of each group, the same at every stage."""
    names = sorted({name for nodes in groups.values() for name in nodes.values()})
    return {name: _FIRST_GROUP - index for index, name in enumerate(names)}


def _standins(
    stage: "_Stage", shown: np.ndarray, groups: Mapping[int, str], numbers: Mapping[str, int]
) -> np.ndarray:
    """For each node of a stage itself if it is shown, and else its group."""
    standins = stage.nodes.copy()
    for index in np.flatnonzero(~shown):
        name = groups.get(int(stage.nodes[index]))
        standins[index] = OTHER if name is None else numbers[name]
    for group in np.unique(standins[~shown]):
        members = standins == group
        if members.sum() == 1:
            standins[members] = stage.nodes[members]
    return standins


def stage_names(frame: pd.DataFrame) -> list[str]:
    """The stages of a flow from first to last."""
    following = dict(zip(frame["source"].tolist(), frame["target"].tolist(), strict=True))
    name = next(iter(following.keys() - set(following.values())))
    names = [name]
    while name in following:
        name = following[name]
        names.append(name)
    return names


@dataclass
class _Step:
    """Counts of pairs between two stages, as running numbers of their nodes."""

    first: np.ndarray
    second: np.ndarray
    counts: np.ndarray


@dataclass
class _Stage:
    """All nodes of a stage, in order, before thinning."""

    name: str
    nodes: np.ndarray
    n_tokens: np.ndarray
    texts: list[str]

    def column(self, standins: np.ndarray, numbers: Mapping[str, int]) -> Column:
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
        nodes = sorted(sizes, key=lambda node: (node < 0, node == OTHER))
        return Column(self.name, len(standins), any(self.texts), nodes, sizes, texts, members)


def _stages_and_steps(frame: pd.DataFrame) -> tuple[list[_Stage], list[_Step]]:
    names = stage_names(frame)
    stages: list[_Stage] = []
    steps: list[_Step] = []
    for source, target in pairwise(names):
        rows = frame.query("source == @source")
        counts = np.asarray(rows["count"], dtype=np.int64)
        if not stages:
            stage, first = _stage(rows, source, "code", "text", counts)
            stages.append(stage)
        else:
            first = np.searchsorted(stages[-1].nodes, np.asarray(rows["code"]))
        stage, second = _stage(rows, target, "next_code", "next_text", counts)
        stages.append(stage)
        steps.append(_Step(first, second, counts))
    return stages, steps


def _stage(
    rows: pd.DataFrame, name: str, node: str, text: str, counts: np.ndarray
) -> tuple[_Stage, np.ndarray]:
    """A stage, and the running number of the node in each row."""
    nodes, first, numbers = np.unique(rows[node].to_numpy(), return_index=True, return_inverse=True)
    texts = [str(t) for t in np.asarray(rows[text])[first]] if text in rows else [""] * len(nodes)
    return _Stage(name, nodes, _sums(numbers, counts, len(nodes)), texts), numbers


def _sums(numbers: np.ndarray, counts: np.ndarray, n: int) -> np.ndarray:
    return np.bincount(numbers, counts, n).astype(np.int64)


def _sums_of_pairs(
    codes: np.ndarray, following: np.ndarray, counts: np.ndarray
) -> dict[tuple[int, int], int]:
    pairs, numbers = np.unique(np.stack([codes, following], axis=1), axis=0, return_inverse=True)
    sums = _sums(numbers.ravel(), counts, len(pairs))
    return {(a, b): count for (a, b), count in zip(pairs.tolist(), sums.tolist(), strict=True)}


def _chosen(stages: Sequence[_Stage], steps: Sequence[_Step], n_nodes: int) -> list[np.ndarray]:
    """Which nodes of each stage share most tokens with those chosen next to it: an optimum of
    its kind, reached from the commonest nodes.
    """
    shown = [_largest(stage.n_tokens, stage.n_tokens, n_nodes) for stage in stages]
    for _ in range(_SWEEPS):
        for index, stage in enumerate(stages):
            shared = np.zeros(len(stage.nodes), dtype=np.int64)
            if index > 0:
                step = steps[index - 1]
                counts = step.counts * shown[index - 1][step.first]
                shared += _sums(step.second, counts, len(shared))
            if index < len(steps):
                step = steps[index]
                counts = step.counts * shown[index + 1][step.second]
                shared += _sums(step.first, counts, len(shared))
            shown[index] = _largest(shared, stage.n_tokens, n_nodes)
    return shown


def _largest(shared: np.ndarray, n_tokens: np.ndarray, n_nodes: int) -> np.ndarray:
    """The nodes that share most; of equal ones the commonest."""
    chosen = np.zeros(len(shared), dtype=bool)
    chosen[np.lexsort((-n_tokens, -shared))[:n_nodes]] = True
    return chosen


def _untangle(flow: Flow) -> None:
    """Sorts the nodes of each stage by the mean place of their neighbours, the rest at the end.

    This is the barycentre method (Sugiyama et al. 1981), to the right and back; the order in which
    the fewest tokens cross is kept.
    """
    best = [list(column.nodes) for column in flow.columns]
    fewest = crossings(flow)
    for sweep in range(_ROUNDS):
        steps = range(len(flow.links))
        for index in steps if sweep % 2 == 0 else reversed(steps):
            first, second = flow.columns[index], flow.columns[index + 1]
            links = flow.links[index]
            if sweep % 2 == 0:
                turned = {(b, a): count for (a, b), count in links.items()}
                _sort(second, first, turned)
            else:
                _sort(first, second, links)
        crossing = crossings(flow)
        if crossing < fewest:
            fewest = crossing
            best = [list(column.nodes) for column in flow.columns]
    for column, nodes in zip(flow.columns, best, strict=True):
        column.nodes[:] = nodes


def crossings(flow: Flow) -> int:
    """Pairs of tokens whose ribbons cross, between all neighbouring columns."""
    total = 0
    for index, links in enumerate(flow.links):
        left = {node: place for place, node in enumerate(flow.columns[index].nodes)}
        right = {node: place for place, node in enumerate(flow.columns[index + 1].nodes)}
        counts = np.zeros((len(left), len(right)), dtype=np.int64)
        for (a, b), count in links.items():
            counts[left[a], right[b]] = count
        # Tokens that start further down and end further up than those of each link.
        below = np.zeros((len(left) + 1, len(right) + 1), dtype=np.int64)
        below[:-1, 1:] = counts[::-1].cumsum(0)[::-1].cumsum(1)
        total += int((counts * below[1:, :-1]).sum())
    return total


def _sort(column: Column, by: Column, links: Mapping[tuple[int, int], int]) -> None:
    """Sorts a column by the mean place of its neighbours, in tokens from the top."""
    edges = np.cumsum([0, *(by.sizes[node] for node in by.nodes)])
    places = dict(zip(by.nodes, ((edges[1:] + edges[:-1]) / 2).tolist(), strict=True))

    def place(node: int) -> tuple[bool, float]:
        coming = [(places[b], count) for (a, b), count in links.items() if a == node]
        total = sum(count for _, count in coming)
        return node == OTHER, sum(at * count for at, count in coming) / total

    column.nodes.sort(key=place)


def middles(flow: Flow, *, share_of_gaps: float) -> list[np.ndarray]:
    """The middle of each node from the top, as fractions of the height, for every column.

    Columns end at the same height: those with fewer nodes have wider gaps.

    Args:
        flow: Thinned.
        share_of_gaps: Fraction of the height that the gaps of the longest column take.
    """
    found = []
    for column in flow.columns:
        sizes = np.array([column.sizes[node] for node in column.nodes]) / flow.n_tokens
        sizes *= 1 - share_of_gaps
        gap = (1 - sizes.sum()) / max(1, len(sizes) - 1)
        tops = np.concatenate([[0.0], np.cumsum(sizes + gap)[:-1]])
        found.append(tops + sizes / 2)
    return found


def node_colours(flow: Flow, colours: Mapping[str, Sequence[str] | None]) -> list[dict[int, str]]:
    """A colour for each node: codes have their own, and tokens that of their main neighbour.

    Groups have the same colour at every stage, and `OTHER` is grey.

    Args:
        flow: Thinned.
        colours: Of the codes of each stage, from `code_colours`.
    """
    found: list[dict[int, str]] = []
    for column in flow.columns:
        own = {}
        for node in column.nodes:
            if node <= _FIRST_GROUP:
                own[node] = colour_of_group(_FIRST_GROUP - node)
            elif node == OTHER or column.is_token:
                own[node] = NO_CODE
            else:
                own[node] = colour_of(node, colours.get(column.name))
        found.append(own)
    for index, column in enumerate(flow.columns):
        if column.is_token:
            _colour_tokens(flow, found, index)
    return found


def _colour_tokens(flow: Flow, colours: list[dict[int, str]], index: int) -> None:
    """Gives tokens the colour of what most of them go to, or at the last stage come from."""
    is_last = index == len(flow.links)
    links = flow.links[index - 1] if is_last else flow.links[index]
    neighbours = colours[index - 1] if is_last else colours[index + 1]
    most = dict.fromkeys(flow.columns[index].nodes, 0)
    for pair, count in links.items():
        other, node = pair if is_last else pair[::-1]
        if node >= 0 and other >= 0 and count > most[node]:
            most[node] = count
            colours[index][node] = neighbours[other]
