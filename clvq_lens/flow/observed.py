"""How concepts flow: the paths of tokens through the codes of one quantizer after another."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal

import networkx as nx
import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Int

from clvq_lens.concepts.tally import Tally
from clvq_lens.config import LongTexts, check_seed
from clvq_lens.errors import ConfigError, DataError, EmptyCorpusError
from clvq_lens.evaluation.agreement import Agreement
from clvq_lens.evaluation.labels import TokenLabels
from clvq_lens.flow.chain import require_chain
from clvq_lens.flow.labels import StageLabels
from clvq_lens.flow.names import CodeNames, names_by_stage
from clvq_lens.flow.paths import PathTally
from clvq_lens.flow.steps import FlowStage, FlowStep, StageKind, flow_step
from clvq_lens.host.attach import Attachment
from clvq_lens.host.host import Host
from clvq_lens.plots.flow import plot_flow
from clvq_lens.training.activations import check_finite
from clvq_lens.training.documents import Data, open_documents
from clvq_lens.training.interrupt import add_each
from clvq_lens.training.tokens import TokenBatch, token_batches


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
    """

    stages: tuple[FlowStage, ...]
    steps: tuple[FlowStep, ...]
    n_tokens: int
    path_nodes: Int[np.ndarray, "n stages"]
    path_counts: Int[np.ndarray, " n"]
    path_error: int
    agreements: tuple[StageAgreement, ...] | None = None
    complete: bool = True

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
        self, labels: Mapping[str, CodeNames] | CodeNames | None = None, *, n_nodes: int = 15
    ) -> go.Figure:
        """A Sankey diagram of the flow; what is not shown is summed as "other".

        Args:
            labels: Names of codes, for each stage by its name: ``{"0-1": {17: "animals"}}``. With
                a single quantizer, also its names alone, ``lens.concepts(texts).labels()``.
            n_nodes: How many nodes of each stage stand for themselves.
        """
        return plot_flow(self.frame(), labels=self._names(labels), n_nodes=n_nodes)

    def _names(
        self, labels: Mapping[str, CodeNames] | CodeNames | None
    ) -> dict[str, dict[int, str]]:
        stages = [stage.name for stage in self.stages if stage.kind == "codes"]
        return names_by_stage(labels, stages)


def concept_flow(
    model: Any,
    data: Data,
    *,
    ends: bool | None = None,
    labels: TokenLabels | None = None,
    long_texts: LongTexts = "split",
    seed: int = 0,
    progress: bool = True,
) -> ConceptFlow:
    """How tokens flow through the codes of all quantizers on a model, as observed.

    One pass over any amount of text, in memory that does not grow with it; Ctrl-C ends it early and
    gives the flow of what was read. Nothing is edited, so
    quantizers may overlap; what ablating a code does to the next ones says `causal_flow`.

    Args:
        model: A model with one fitted quantizer or several.
        data: Texts or tokens, as for `Lens.fit`.
        ends: Whether the flow begins with the token itself and ends with the token that the model
            predicts; None: with a single quantizer only. Encoders predict no next token, and
            their flow ends with the last codes.
        labels: A known label of every real token of every document, to see in `agreement` where in
            depth they appear.
        long_texts: What to do with a text beyond the context.
        seed: Of the shuffled controls.
        progress: Whether to show a progress bar.

    Returns:
        The flow, with ``.frame()``, ``.summary()``, ``.events()``, ``.paths()``,
        ``.agreement()``, ``.to_networkx()`` and ``.plot()``.

    Raises:
        ConfigError: If no quantizer is on the model, or there is a single one without ends.
        NotFittedError: If one of them has not been fitted.
        EmptyCorpusError: If the data hold no real token.
        DataError: If labels do not match the tokens.
        NonFiniteError: If activations hold NaN or infinity.

    Example:
        >>> cl.concept_flow(model, texts).plot()  # doctest: +SKIP
    """
    check_seed(seed)
    survey = _Survey(_chain(model, ends), ends, labels)
    batches = token_batches(survey.host, open_documents(data), long_texts=long_texts)
    complete = add_each(batches, survey.add, desc="concept flow", progress=progress)
    return survey.flow(seed, complete=complete)


def _chain(model: Any, ends: bool | None) -> list[Attachment]:
    chain = require_chain(model)
    if len(chain) == 1 and ends is False:
        raise ConfigError(
            "With a single quantizer and ends=False there is nothing that flows. Pass ends=True, "
            "or attach and fit another quantizer."
        )
    taken = {"token", "prediction"} & {attachment.name for attachment in chain}
    if taken:
        raise ConfigError(
            f"A quantizer is named {taken.pop()!r}, which is the name of a stage of tokens. Attach "
            f"it under another name: model.add_clvq(..., name=...)."
        )
    return chain


class _Survey:
    """Counts of pairs and paths, over batches of texts."""

    def __init__(
        self, chain: Sequence[Attachment], ends: bool | None, labels: TokenLabels | None
    ) -> None:
        self.host: Host = chain[0].host
        self.chain = chain
        cfg = self.host.cfg
        ends = len(chain) == 1 if ends is None else ends
        self.predicts = ends and self.host.predicts_tokens
        names: list[tuple[str, StageKind, int]] = [
            (attachment.name, "codes", attachment.quantizer.config.n_codes) for attachment in chain
        ]
        first: list[tuple[str, StageKind, int]] = [("token", "token", cfg.d_vocab)] if ends else []
        last: list[tuple[str, StageKind, int]] = [("prediction", "prediction", cfg.d_vocab)]
        self.kinds = [*first, *names, *(last if self.predicts else [])]
        self.reads_tokens = bool(first)
        sizes = [size for _, _, size in self.kinds]
        self.pairs = [Tally(*pair) for pair in pairwise(sizes)]
        self.paths = PathTally(len(sizes))
        self.labels = None
        if labels is not None:
            stages = [(name, size) for name, _, size in self.kinds if name != "token"]
            self.labels = StageLabels(labels, cfg.d_vocab, stages)
        for attachment in chain:
            attachment.quantizer.eval()

    def add(self, batch: TokenBatch) -> None:
        """Counts one batch."""
        tokens = batch.tokens[batch.mask].numpy()
        nodes = self._codes_and_prediction(batch)
        stages = [tokens, *nodes] if self.reads_tokens else nodes
        for pairs, pair in zip(self.pairs, pairwise(stages), strict=True):
            pairs.add(*pair)
        self.paths.add(np.stack(stages, axis=1))
        if self.labels is not None:
            self.labels.add(batch, tokens, nodes)

    @torch.no_grad()
    def _codes_and_prediction(self, batch: TokenBatch) -> list[Int[np.ndarray, " n"]]:
        """The nodes of real tokens at every stage but that of the tokens themselves."""
        tokens = batch.tokens.to(self.host.device)
        attended = batch.attended.to(self.host.device)
        sources = [attachment.source for attachment in self.chain]
        predicted = []
        if self.predicts:
            found: dict[str, torch.Tensor] = {}
            with self.host.reading(sources, found):
                logits = self.host.run(tokens, attended)
            predicted = [logits.argmax(-1)]
        else:
            found = self.host.activations(tokens, attended, sources)
        nodes = []
        for attachment in self.chain:
            source = found[attachment.source]
            check_finite(source[attended.to(source.device)], attachment.source)
            nodes.append(attachment.quantizer.assign(source))
        return [part.cpu()[batch.mask].numpy() for part in (*nodes, *predicted)]

    def flow(self, seed: int, *, complete: bool) -> ConceptFlow:
        """What was found."""
        nodes, counts = self.paths.commonest()
        if len(counts) == 0:
            raise EmptyCorpusError("The data hold no real token. Pass texts with words in them.")
        stages = tuple(self._stage(index) for index in range(len(self.kinds)))
        steps = tuple(
            flow_step(*pair, pairs, seed=seed)
            for pair, pairs in zip(pairwise(stages), self.pairs, strict=True)
        )
        agreements = None
        if self.labels is not None:
            agreements = tuple(
                StageAgreement(stage, "ambiguous" if ambiguous else "all", found)
                for stage, ambiguous, found in self.labels.agreements(seed, complete=complete)
            )
        return ConceptFlow(
            stages=stages,
            steps=steps,
            n_tokens=steps[0].n_tokens,
            path_nodes=nodes,
            path_counts=counts,
            path_error=self.paths.error,
            agreements=agreements,
            complete=complete,
        )

    def _stage(self, index: int) -> FlowStage:
        name, kind, size = self.kinds[index]
        side = min(index, 1)  # every stage but the first is the second one of a pair
        codes, counts = self.pairs[index - side].entries()
        n_tokens = np.bincount(codes[side], counts, size).astype(np.int64)
        nodes = np.flatnonzero(n_tokens)
        texts = None
        if kind != "codes":
            texts = tuple(self.host.vocabulary.names(torch.from_numpy(nodes)))
        return FlowStage(name, kind, nodes, n_tokens[nodes], texts)
