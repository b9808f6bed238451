"""The Sankey diagram of a concept flow: which nodes stand for themselves, and where they stand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd

OTHER = -1  # stands for all nodes of a stage that are not shown
_SWEEPS = 4  # passes over the stages in which nodes are sorted by their neighbours


@dataclass
class Column:
    """A stage as it is drawn.

    Attributes:
        name: Of the stage.
        n_nodes: Distinct nodes before thinning.
        is_token: Whether nodes are tokens.
        nodes: Those that stand for themselves and then, if there are more, `OTHER`; from the top.
        sizes: Tokens in each of them.
        texts: What each node is called in the data.
    """

    name: str
    n_nodes: int
    is_token: bool
    nodes: list[int]
    sizes: dict[int, int]
    texts: Mapping[int, str]

    @property
    def n_other(self) -> int:
        """How many nodes are summed as `OTHER`."""
        return self.n_nodes - sum(node != OTHER for node in self.nodes)


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


def thinned(frame: pd.DataFrame, n_nodes: int) -> Flow:
    """The flow between the nodes that matter, and the rest of each stage as one node.

    Those nodes matter between which most tokens flow: beginning with the commonest ones, each
    stage in turn takes the nodes that share most tokens with those taken next to it. Nothing is
    left out: at every stage the tokens add up to all tokens.

    Args:
        frame: From `ConceptFlow.frame()`.
        n_nodes: How many nodes of a stage stand for themselves; a rest of one does so too.
    """
    stages, steps = _stages_and_steps(frame)
    shown = _chosen(stages, steps, n_nodes)
    links = []
    for index, step in enumerate(steps):
        first, second = stages[index : index + 2]
        codes = np.where(shown[index][step.first], first.nodes[step.first], OTHER)
        following = np.where(shown[index + 1][step.second], second.nodes[step.second], OTHER)
        links.append(_sums_of_pairs(codes, following, step.counts))
    columns = [stage.column(mask) for stage, mask in zip(stages, shown, strict=True)]
    flow = Flow(columns, links)
    _untangle(flow)
    return flow


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

    def column(self, shown: np.ndarray) -> Column:
        """Those that are shown, and the rest as one."""
        where = np.flatnonzero(shown)
        nodes = self.nodes[where].tolist()
        sizes = dict(zip(nodes, self.n_tokens[where].tolist(), strict=True))
        if not shown.all():
            sizes[OTHER] = int(self.n_tokens[~shown].sum())
        texts = {node: self.texts[index] for node, index in zip(nodes, where, strict=True)}
        return Column(self.name, len(shown), any(self.texts), list(sizes), sizes, texts)


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
    n_shown = len(shared) if len(shared) <= n_nodes + 1 else n_nodes
    chosen = np.zeros(len(shared), dtype=bool)
    chosen[np.lexsort((-n_tokens, -shared))[:n_shown]] = True
    return chosen


def _untangle(flow: Flow) -> None:
    """Sorts the nodes of each stage by the mean place of their neighbours, the rest at the end."""
    for sweep in range(_SWEEPS):
        steps = range(len(flow.links))
        for index in steps if sweep % 2 == 0 else reversed(steps):
            first, second = flow.columns[index], flow.columns[index + 1]
            links = flow.links[index]
            if sweep % 2 == 0:
                turned = {(b, a): count for (a, b), count in links.items()}
                _sort(second, first, turned)
            else:
                _sort(first, second, links)


def _sort(column: Column, by: Column, links: Mapping[tuple[int, int], int]) -> None:
    places = {node: place for place, node in enumerate(by.nodes)}

    def place(node: int) -> tuple[bool, float]:
        found = [(places[other], count) for (here, other), count in links.items() if here == node]
        total = sum(count for _, count in found)
        return node == OTHER, sum(at * count for at, count in found) / total

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


def lineage_colours(flow: Flow, palette: Sequence[str], other: str) -> list[dict[int, str]]:
    """A colour for each node: that of the node where most of it comes from, or else a new one.

    So a concept that persists keeps its colour, and one that splits passes it on. Where most of a
    node comes from nodes that are not shown, it begins a colour of its own.

    Args:
        flow: Thinned and sorted.
        palette: Colours, used one after the other.
        other: The colour of what is not shown.
    """
    colours: list[dict[int, str]] = []
    n_used = 0
    for index, column in enumerate(flow.columns):
        colours.append({})
        for node in column.nodes:
            parent = None if index == 0 else _main_source(flow.links[index - 1], node)
            if node == OTHER:
                colours[index][node] = other
            elif parent is not None and parent != OTHER:
                colours[index][node] = colours[index - 1][parent]
            else:
                colours[index][node] = palette[n_used % len(palette)]
                n_used += 1
    return colours


def _main_source(links: Mapping[tuple[int, int], int], node: int) -> int:
    coming = {first: count for (first, second), count in links.items() if second == node}
    return max(coming, key=lambda first: coming[first])
