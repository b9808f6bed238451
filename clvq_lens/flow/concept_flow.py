"""The flow of concepts through the layers as a result: tables, events, paths and a figure."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import networkx as nx
import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Int

from clvq_lens.arguments import CodeNames
from clvq_lens.errors import ConfigError
from clvq_lens.flow.grouping import GroupBy, focused, grouping, without_labels
from clvq_lens.flow.names import names_by_stage
from clvq_lens.flow.stage_labels import StageAgreement
from clvq_lens.flow.steps import FlowStage, FlowStep
from clvq_lens.plots.flow_diagrams import plot_flow
from clvq_lens.plots.sankey import Groups
from clvq_lens.showing import Shown
from clvq_lens.stats.agreement import Agreement


@dataclass(frozen=True, repr=False)
class ConceptFlow(Shown):
    """How tokens flow from stage to stage: tokens, the codes of each quantizer, predictions.

    Attributes:
        stages: In order of depth.
        steps: From each stage to the next.
        n_tokens: Real tokens read.
        path_nodes: The commonest full paths, one node for each stage, the commonest path first.
        path_counts: Tokens on each of them.
        path_error: By how much these counts may be too low; 0: they are exact and complete.
        agreements: Agreement of each stage with labels; None if there were no labels.
        complete: Whether all of the data were read; False after Ctrl-C.
        groups: Groups of the nodes of each stage, by "word_classes" and, if they were given,
            by "token_labels".
        colors: Colors of the codes of each quantizer by its name, the same as in every other
            figure.
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
    colors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

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
        # Stable, so that equal counts stay in order of stages and nodes.
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

    def events(self, names: Mapping[str, CodeNames] | CodeNames | None = None) -> pd.DataFrame:
        """Persistent, splitting and merging concepts, one row each, most tokens first.

        A code is persistent if more than half of its tokens go on to one code, and more than half
        of that code's tokens come from it. A code is splitting if it is not persistent and at
        least two codes, each with a tenth of its tokens or more, have more than half of theirs
        from it. Merging is the mirror image: a code to which at least two others, each a tenth of
        it or more, send more than half of their tokens. ``n_tokens`` counts the tokens that go
        from ``codes`` to ``next_codes``.

        Args:
            names: Names of codes, as for `plot`.
        """
        frame = pd.concat([step.events() for step in self.steps], ignore_index=True)
        if names is not None:
            by_stage = self._names(names)
            frame["name"] = _joined_names(frame, "source", "codes", by_stage)
            frame["next_name"] = _joined_names(frame, "target", "next_codes", by_stage)
        return frame.sort_values("n_tokens", ascending=False, kind="stable", ignore_index=True)

    def paths(self, n: int = 20) -> pd.DataFrame:
        """The commonest full paths, one column for each stage.

        Stages of tokens give the text, and the id in a second column. The true count lies between
        ``count`` and ``at_most``; both are the same unless there were more distinct paths than
        are kept.

        Args:
            n: Number of paths.
        """
        columns: dict[str, object] = {}
        for index, stage in enumerate(self.stages):
            nodes = self.path_nodes[:n, index]
            if stage.texts is None:
                columns[stage.name] = nodes
            else:
                columns[stage.name] = stage.texts_of(nodes)
                columns[f"{stage.name}_id"] = nodes
        counts = self.path_counts[:n]
        columns["count"] = counts
        columns["at_most"] = counts + self.path_error
        columns["share"] = counts / self.n_tokens
        return pd.DataFrame(columns)

    def agreement(self) -> pd.DataFrame:
        """How well each stage agrees with the labels: where in depth a concept appears.

        Token identity comes first, as the baseline of all stages. "ambiguous" tokens are those
        whose id occurs with more than one label, so that only context tells which.
        ``nmi_shuffled`` and ``purity_shuffled`` are those of shuffled labels.

        Raises:
            DataError: If the flow was computed without labels.
        """
        if self.agreements is None:
            raise without_labels()
        rows: list[dict[str, object]] = []
        for stage in self.agreements:
            numbers = asdict(stage.agreement)
            rows.append({"stage": stage.stage, "tokens": stage.tokens, **numbers})
        # The columns are named even where no token had a label, so that the table has them.
        columns = ["stage", "tokens", *Agreement.__dataclass_fields__]
        return pd.DataFrame(rows, columns=columns).rename(columns={"n_codes": "n_nodes"})

    def to_networkx(self) -> nx.DiGraph:
        """A graph of ``(stage, node)``, with every row of `frame` as an edge.

        Nodes have ``n_tokens``, and ``text`` if they are tokens; edges have ``count``, ``share``,
        ``back_share``, ``expected`` and ``lift``.
        """
        graph = nx.DiGraph()
        for stage in self.stages:
            for index, node in enumerate(stage.nodes.tolist()):
                text = {} if stage.texts is None else {"text": stage.texts[index]}
                graph.add_node((stage.name, node), n_tokens=int(stage.n_tokens[index]), **text)
        rows = self.frame().drop(columns=["text", "next_text"], errors="ignore")
        for row in rows.to_dict("records"):
            source = row.pop("source"), row.pop("code")
            target = row.pop("target"), row.pop("next_code")
            graph.add_edge(source, target, **row)
        return graph

    def plot(
        self,
        names: Mapping[str, CodeNames] | CodeNames | None = None,
        *,
        n_nodes: int = 15,
        by: GroupBy = "word_classes",
        focus: int | tuple[str, int] | None = None,
    ) -> go.Figure:
        """A Sankey diagram of the flow, in which every stage holds all tokens.

        Args:
            names: Names of codes, for each stage by its name: ``{"0-1": {17: "animals"}}``. With
                a single quantizer, also its names alone, ``lens.concepts(texts).names()``.
            n_nodes: How many nodes of each stage stand for themselves; with 0, only groups do.
            by: How the others are grouped: by "word_classes" (codes by that of most of their
                tokens), by the "token_labels" that were given, by "names" (codes that are called
                alike), by groups of your own, ``{"token": {13: "numbers"}}``, or "none": all as
                one.
            focus: A code, or with several quantizers a pair such as ``("0-1", 17)``: only the
                tokens that pass through it are drawn, with their whole neighborhood.

        Raises:
            ConfigError: If there is no such way to group, or no token passes through the focus.
            DataError: If the flow was computed without labels.
        """
        by_stage = self._names(names)
        frame, title = self.frame(), "Flow of concepts"
        if focus is not None:
            name, code = self._focus(focus)
            paths, counts = self.path_nodes, self.path_counts
            frame = focused(self.stages, paths, counts, stage=name, code=code)
            # Rare paths may have been dropped, and their tokens with them.
            at_least = "" if self.path_error == 0 else ", at least"
            title = f"Flow through code {code} of {name}{at_least}"
        return plot_flow(
            frame,
            names=by_stage,
            n_nodes=n_nodes,
            groups=grouping(by, self.groups, by_stage),
            colors=self.colors,
            title=title,
        )

    def headline(self) -> str:
        """The stages, how many tokens went through them, and what the last step explains."""
        stages = " -> ".join(stage.name for stage in self.stages)
        last = self.steps[-1].summary()
        return (
            f"{stages}, {self.n_tokens:,} tokens{'' if self.complete else ', interrupted'}; "
            f"{last['source']} explains {last['explained']:.1%} of {last['target']} "
            f"(shuffled {last['explained_shuffled']:.1%})"
        )

    def preview(self) -> pd.DataFrame:
        """The table of `summary`."""
        return self.summary()

    def _focus(self, focus: int | tuple[str, int]) -> tuple[str, int]:
        stages = self._quantizers
        name, code = focus if isinstance(focus, tuple) else (stages[0], focus)
        if name not in stages or (len(stages) > 1 and not isinstance(focus, tuple)):
            raise ConfigError(
                f"focus is {focus!r}, and the quantizers are {stages}. Pass the name of one and a "
                f"code of it: focus=({stages[0]!r}, 17)."
            )
        return name, code

    def _names(
        self, names: Mapping[str, CodeNames] | CodeNames | None
    ) -> dict[str, dict[int, str]]:
        return names_by_stage(names, self._quantizers)

    @property
    def _quantizers(self) -> list[str]:
        return [stage.name for stage in self.stages if stage.kind == "codes"]


def _joined_names(
    frame: pd.DataFrame, stage_column: str, codes_column: str, by_stage: Mapping[str, CodeNames]
) -> list[str]:
    """For each row the names of its codes; a code without a name is called by its number."""
    joined: list[str] = []
    for stage, codes in zip(frame[stage_column], frame[codes_column], strict=True):
        names = by_stage.get(stage, {})
        joined.append(" | ".join(names.get(code, str(code)) for code in codes))
    return joined
