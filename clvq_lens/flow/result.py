"""The flow of concepts through the layers as a result: tables, events, paths and a figure."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import networkx as nx
import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Int

from clvq_lens.errors import ConfigError, DataError
from clvq_lens.evaluation.agreement import Agreement
from clvq_lens.flow.grouping import GroupBy, Groups, focused, grouping
from clvq_lens.flow.names import CodeNames, names_by_stage
from clvq_lens.flow.steps import FlowStage, FlowStep
from clvq_lens.plots.flow import plot_flow


@dataclass(frozen=True)
class StageAgreement:
    """How well one stage agrees with known labels.

    Attributes:
        stage: Its name.
        tokens: "all", or "ambiguous": those whose token id occurs with more than one label.
        agreement: With the labels, beside shuffled ones.
    """

    stage: str
    tokens: Literal["all", "ambiguous"]
    agreement: Agreement


@dataclass(frozen=True)
class ConceptFlow:
    """How tokens flow from stage to stage: tokens, the codes of each quantizer, predictions.

    Attributes:
        stages: In order of depth.
        steps: From each stage to the next.
        n_tokens: Real tokens read.
        path_nodes: The commonest full paths, one node for each stage, the commonest path first.
        path_counts: Tokens on each of them.
        path_error: By how much these counts may be too low; 0: they are exact and complete.
        agreements: Of each stage with labels; None if there were none.
        complete: Whether all of the data were read; False after Ctrl-C.
        groups: Of the nodes of each stage, by "classes" of words and, if they were given, "labels".
        colours: Of the codes of each quantizer by its name, the same as in every other figure.
    """

    stages: tuple[FlowStage, ...]
    steps: tuple[FlowStep, ...]
    n_tokens: int
    path_nodes: Int[np.ndarray, "n stages"]
    path_counts: Int[np.ndarray, " n"]
    path_error: int
    agreements: tuple[StageAgreement, ...] | None = None
    complete: bool = True
    groups: Mapping[str, Groups] = field(default_factory=dict)
    colours: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def frame(self) -> pd.DataFrame:
        """One row for each pair of nodes that follow each other at a token, largest counts first.

        ``code`` and ``next_code`` are codes, or token ids where the stage is one of tokens; then
        ``text`` and ``next_text`` are their texts. ``share`` is the fraction of the code's tokens
        that go on to the next code, ``back_share`` the fraction of the next code's tokens that
        come from it, ``expected`` the count were both independent (the baseline), and ``lift``
        the count over it.
        """
        frame = pd.concat([step.frame() for step in self.steps], ignore_index=True)
        if all(stage.texts is None for stage in self.stages):
            frame = frame.drop(columns=["text", "next_text"])
        order = np.argsort(-frame["count"].to_numpy(), kind="stable")
        return frame.iloc[order].reset_index(drop=True)

    def summary(self) -> pd.DataFrame:
        """One row for each step: what one stage says about the next.

        ``mutual_information`` and the entropies are in nats; ``shuffled`` is the mutual
        information of shuffled tokens (the baseline); ``explained`` is the mutual information as
        a fraction of the entropy of the next stage. ``persistent``, ``splitting`` and ``merging``
        are the fractions of tokens in such codes, as `events` defines them; NaN for tokens.
        """
        return pd.DataFrame([step.summary() for step in self.steps])

    def events(self, labels: Mapping[str, CodeNames] | CodeNames | None = None) -> pd.DataFrame:
        """Persistent, splitting and merging concepts, one row each, most tokens first.

        A code is persistent if more than half of its tokens go on to one code, and more than half
        of that code's tokens come from it. A code is splitting if it is not persistent and at
        least two codes, each with a tenth of its tokens or more, have more than half of theirs
        from it. Merging is the mirror image: a code to which at least two others, each a tenth of
        it or more, send more than half of their tokens. ``n_tokens`` counts the tokens that go
        from ``codes`` to ``next_codes``.

        Args:
            labels: Names of codes, as for `plot`.
        """
        frame = pd.concat([step.events() for step in self.steps], ignore_index=True)
        if labels is not None:
            names = self._names(labels)
            for ends, codes, label in (
                ("source", "codes", "label"),
                ("target", "next_codes", "next_label"),
            ):
                frame[label] = [
                    " | ".join(names.get(stage, {}).get(code, str(code)) for code in these)
                    for stage, these in zip(frame[ends], frame[codes], strict=True)
                ]
        return frame.sort_values("n_tokens", ascending=False, kind="stable", ignore_index=True)

    def paths(self, n: int = 20) -> pd.DataFrame:
        """The commonest full paths, one column for each stage.

        Stages of tokens give the text, and the id in a second column. The true count lies between
        ``count`` and ``at_most``; both are the same unless there were more distinct paths than
        are kept.

        Args:
            n: How many.
        """
        columns: dict[str, Any] = {}
        for index, stage in enumerate(self.stages):
            nodes = self.path_nodes[:n, index]
            if stage.texts is None:
                columns[stage.name] = nodes
            else:
                columns[stage.name] = stage.texts_of(nodes)
                columns[f"{stage.name}_id"] = nodes
        columns["count"] = self.path_counts[:n]
        columns["at_most"] = columns["count"] + self.path_error
        columns["share"] = columns["count"] / self.n_tokens
        return pd.DataFrame(columns)

    def agreement(self) -> pd.DataFrame:
        """How well each stage agrees with the labels: where in depth a concept appears.

        Token identity comes first, as the baseline of all stages. Of "ambiguous" tokens, whose id
        occurs with more than one label, the label is a matter of context. ``nmi_shuffled`` and
        ``purity_shuffled`` are those of shuffled labels.

        Raises:
            DataError: If the flow was computed without labels.
        """
        if self.agreements is None:
            raise DataError(
                "This flow was computed without labels. Pass them: "
                "concept_flow(model, texts, labels=...), one label for each real token."
            )
        rows = [
            {"stage": found.stage, "tokens": found.tokens, **asdict(found.agreement)}
            for found in self.agreements
        ]
        columns = ["stage", "tokens", *Agreement.__dataclass_fields__]
        return pd.DataFrame(rows, columns=columns).rename(columns={"n_codes": "n_nodes"})

    def to_networkx(self) -> nx.DiGraph:
        """A graph of ``(stage, node)``, with every row of `frame` as an edge.

        Nodes have ``n_tokens``, and ``text`` if they are tokens; edges have ``count``, ``share``,
        ``back_share``, ``expected`` and ``lift``.
        """
        graph = nx.DiGraph()
        for stage in self.stages:
            texts = (
                [{}] * stage.n_nodes if stage.texts is None else [{"text": t} for t in stage.texts]
            )
            columns = (stage.nodes.tolist(), stage.n_tokens.tolist(), texts)
            for node, n_tokens, text in zip(*columns, strict=True):
                graph.add_node((stage.name, node), n_tokens=n_tokens, **text)
        ends = ["source", "code", "target", "next_code"]
        rows = self.frame().drop(columns=["text", "next_text"], errors="ignore")
        for row in rows.to_dict("records"):
            source, code, target, following = (row.pop(end) for end in ends)
            graph.add_edge((source, code), (target, following), **row)
        return graph

    def plot(
        self,
        labels: Mapping[str, CodeNames] | CodeNames | None = None,
        *,
        n_nodes: int = 15,
        by: GroupBy = "classes",
        focus: int | tuple[str, int] | None = None,
    ) -> go.Figure:
        """A Sankey diagram of the flow, in which every stage holds all tokens.

        Args:
            labels: Names of codes, for each stage by its name: ``{"0-1": {17: "animals"}}``. With
                a single quantizer, also its names alone, ``lens.concepts(texts).labels()``.
            n_nodes: How many nodes of each stage stand for themselves; with 0, only groups do.
            by: How the others are grouped: by "classes" of words (codes by that of most of their
                tokens), by the "labels" that were given, by "names" (codes that are called alike),
                by groups of your own, ``{"token": {13: "numbers"}}``, or "none": all as one.
            focus: A code, or with several quantizers a pair such as ``("0-1", 17)``: only the
                tokens that pass through it are drawn, with their whole neighbourhood.

        Raises:
            ConfigError: If there is no such way to group, or no token passes through the focus.
            DataError: If the flow was computed without labels.
        """
        names = self._names(labels)
        frame, title = self.frame(), "Flow of concepts"
        if focus is not None:
            name, code = self._focus(focus)
            frame = focused(self, name, code)
            at_least = "" if self.path_error == 0 else ", at least"
            title = f"Flow through code {code} of {name}{at_least}"
        return plot_flow(
            frame,
            labels=names,
            n_nodes=n_nodes,
            groups=grouping(by, self.groups, names),
            colours=self.colours,
            title=title,
        )

    def _focus(self, focus: int | tuple[str, int]) -> tuple[str, int]:
        stages = [stage.name for stage in self.stages if stage.kind == "codes"]
        name, code = focus if isinstance(focus, tuple) else (stages[0], focus)
        if name not in stages or (len(stages) > 1 and not isinstance(focus, tuple)):
            raise ConfigError(
                f"focus is {focus!r}, and the quantizers are {stages}. Pass the name of one and a "
                f"code of it: focus=({stages[0]!r}, 17)."
            )
        return name, code

    def _names(
        self, labels: Mapping[str, CodeNames] | CodeNames | None
    ) -> dict[str, dict[int, str]]:
        stages = [stage.name for stage in self.stages if stage.kind == "codes"]
        return names_by_stage(labels, stages)
