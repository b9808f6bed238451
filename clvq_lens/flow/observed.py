"""How concepts flow: the paths of tokens through the codes of one quantizer after another."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from clvq_lens.arguments import check_flags, check_seed
from clvq_lens.concepts.encoding import colors_of
from clvq_lens.config import LongTexts
from clvq_lens.data.documents import Data, open_documents
from clvq_lens.data.interrupt import add_each
from clvq_lens.data.reading import read, read_with_logits
from clvq_lens.data.token_labels import TokenLabels
from clvq_lens.data.tokens import TokenBatch, require_real, token_batches
from clvq_lens.errors import ConfigError
from clvq_lens.flow.chain import require_chain
from clvq_lens.flow.concept_flow import ConceptFlow
from clvq_lens.flow.paths import PathTally
from clvq_lens.flow.stage_labels import StageLabels
from clvq_lens.flow.steps import FlowStage, FlowStep, StageKind, flow_step
from clvq_lens.flow.word_classes import StageWordClasses, WordClasses
from clvq_lens.host.attachment import Attachment
from clvq_lens.host.host import Host
from clvq_lens.plots.sankey import Groups
from clvq_lens.stats.tally import Tally


def concept_flow(
    model: Any,
    data: Data,
    *,
    ends: bool | None = None,
    token_labels: TokenLabels | None = None,
    long_texts: LongTexts = "split",
    seed: int = 0,
    progress: bool = True,
) -> ConceptFlow:
    """How tokens flow through the codes of all quantizers on a model, as observed.

    One pass over any amount of text, in memory that does not grow with it; Ctrl-C ends it early and
    gives the flow of what was read. Tokens that are outliers for one of the quantizers are left
    out. Nothing is edited, so quantizers may overlap; `causal_flow` tells what ablating a code
    does to the next ones.

    Args:
        model: A model with one fitted quantizer or several.
        data: Texts or tokens, as for `Lens.fit`.
        ends: Whether the flow begins with the token itself and ends with the token that the model
            predicts; None: with a single quantizer only. Encoders predict no next token, and
            their flow ends with the last codes.
        token_labels: A known label of every real token of every document, to see in `agreement`
            where in depth they appear.
        long_texts: What to do with a text beyond the context.
        seed: Random seed for the shuffled controls.
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
    if ends is not None:
        check_flags(ends=ends)
    chain = _flow_chain(model, ends)
    counts = _FlowCounts(chain, len(chain) == 1 if ends is None else ends, token_labels)
    batches = token_batches(counts.host, open_documents(data), long_texts=long_texts)
    complete = add_each(batches, counts.add, desc="concept flow", progress=progress)
    return counts.flow(seed, complete=complete)


def _flow_chain(model: Any, ends: bool | None) -> list[Attachment]:
    """The quantizers of a model, unless nothing could flow through them."""
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


class _StagePlan(NamedTuple):
    """A stage before it is known which of its nodes occur."""

    name: str
    kind: StageKind
    size: int


def _planned(chain: Sequence[Attachment], host: Host, *, ends: bool) -> list[_StagePlan]:
    plans: list[_StagePlan] = []
    d_vocab = host.cfg.d_vocab
    if ends:
        plans.append(_StagePlan("token", "token", d_vocab))
    for attachment in chain:
        plans.append(_StagePlan(attachment.name, "codes", attachment.quantizer.config.n_codes))
    if ends and host.predicts_tokens:
        plans.append(_StagePlan("prediction", "prediction", d_vocab))
    return plans


class _FlowCounts:
    """Counts of pairs and paths, over batches of texts."""

    def __init__(
        self, chain: Sequence[Attachment], ends: bool, token_labels: TokenLabels | None
    ) -> None:
        self.host: Host = chain[0].host
        self.chain = chain
        self.plans = _planned(chain, self.host, ends=ends)
        self.reads_tokens = ends
        self.predicts = self.plans[-1].kind == "prediction"
        d_vocab = self.host.cfg.d_vocab
        # A tally holds the pairs that occur, not all d_vocab * n_codes of them.
        self.pairs = [Tally(here.size, there.size) for here, there in pairwise(self.plans)]
        self.paths = PathTally(len(self.plans))
        n_codes: dict[str, int] = {}
        n_nodes: dict[str, int] = {}  # without the first stage: labels are counted by token anyway
        for plan in self.plans:
            if plan.kind == "codes":
                n_codes[plan.name] = plan.size
            if plan.kind != "token":
                n_nodes[plan.name] = plan.size
        words = WordClasses(self.host.vocabulary, d_vocab)
        self.word_classes = StageWordClasses(words, n_codes)
        self.labels = None
        if token_labels is not None:
            self.labels = StageLabels(token_labels, d_vocab, n_nodes)

    def add(self, batch: TokenBatch) -> None:
        """Counts one batch."""
        nodes, mask = self._nodes_after_the_token(batch)
        tokens = batch.tokens[mask].numpy()
        stages = [tokens, *nodes] if self.reads_tokens else nodes
        for tally, (here, there) in zip(self.pairs, pairwise(stages), strict=True):
            tally.add(here, there)
        self.paths.add(np.stack(stages, axis=1))
        self.word_classes.add(tokens, nodes[: len(self.chain)])  # codes alone, no predictions
        if self.labels is not None:
            self.labels.add(batch, mask, tokens, nodes)

    @torch.no_grad()
    def _nodes_after_the_token(
        self, batch: TokenBatch
    ) -> tuple[list[Int[np.ndarray, " n"]], Bool[Tensor, "b pos"]]:
        """The nodes of tokens at every stage but that of the tokens themselves, and which tokens.

        These are the real ones that are no outliers at any stage.
        """
        sources = [attachment.source for attachment in self.chain]
        predicted: list[Tensor] = []
        if self.predicts:
            activations, logits = read_with_logits(self.host, batch, sources)
            predicted.append(logits.argmax(-1))
        else:  # the blocks above the last source are not computed
            activations = read(self.host, batch, sources)
        nodes: list[Tensor] = []
        mask = batch.mask
        for attachment in self.chain:
            source = activations[attachment.source]
            nodes.append(attachment.quantizer.assign(source))
            # A path needs a node at every stage, so an outlier anywhere drops the whole token.
            mask = mask & ~attachment.quantizer.outliers(source).cpu()
        return [values.cpu()[mask].numpy() for values in (*nodes, *predicted)], mask

    def flow(self, seed: int, *, complete: bool) -> ConceptFlow:
        """The flow of the tokens that were counted."""
        nodes, counts = self.paths.commonest()
        require_real(len(counts))
        stages: list[FlowStage] = []
        for index in range(len(self.plans)):
            stages.append(self._stage(index))
        steps: list[FlowStep] = []
        for (source, target), pairs in zip(pairwise(stages), self.pairs, strict=True):
            steps.append(flow_step(source, target, pairs, seed=seed))
        agreements = None
        groups: dict[str, Groups] = {"word_classes": self._classes_of(stages)}
        if self.labels is not None:
            groups["token_labels"] = self.labels.groups()
            agreements = self.labels.agreements(seed, complete=complete)
        return ConceptFlow(
            stages=tuple(stages),
            steps=tuple(steps),
            n_tokens=steps[0].n_tokens,
            path_nodes=nodes,
            path_counts=counts,
            path_error=self.paths.error,
            agreements=agreements,
            complete=complete,
            groups=groups,
            colors={part.name: colors_of(part.quantizer) for part in self.chain},
        )

    def _classes_of(self, stages: Sequence[FlowStage]) -> Groups:
        """The word class of each node of every stage."""
        classes: dict[str, dict[int, str]] = {}
        for stage in stages:
            if stage.kind == "codes":
                classes[stage.name] = self.word_classes.of(stage.name, stage.nodes)
            else:
                classes[stage.name] = self.word_classes.of_tokens(stage.nodes)
        return classes

    def _stage(self, index: int) -> FlowStage:
        name, kind, size = self.plans[index]
        side = min(index, 1)  # every stage but the first is the second one of a pair
        pair, counts = self.pairs[index - side].entries()
        n_tokens = np.bincount(pair[side], counts, size).astype(np.int64)
        nodes = np.flatnonzero(n_tokens)
        texts = None
        if kind != "codes":
            texts = tuple(self.host.vocabulary.names(torch.from_numpy(nodes)))
        return FlowStage(name, kind, nodes, n_tokens[nodes], texts)
