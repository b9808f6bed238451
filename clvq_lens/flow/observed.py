"""How concepts flow: the paths of tokens through the codes of one quantizer after another."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from clvq_lens.arguments import check_flags, check_seed
from clvq_lens.concepts.encoding import colours_of
from clvq_lens.concepts.tally import Tally
from clvq_lens.config import LongTexts
from clvq_lens.errors import ConfigError, EmptyCorpusError
from clvq_lens.evaluation.labels import TokenLabels
from clvq_lens.flow.chain import require_chain
from clvq_lens.flow.classes import StageClasses, WordClasses
from clvq_lens.flow.grouping import Groups
from clvq_lens.flow.labels import StageLabels
from clvq_lens.flow.paths import PathTally
from clvq_lens.flow.result import ConceptFlow, StageAgreement
from clvq_lens.flow.steps import FlowStage, StageKind, flow_step
from clvq_lens.host.attach import Attachment
from clvq_lens.host.host import Host
from clvq_lens.training.activations import check_finite
from clvq_lens.training.documents import Data, open_documents
from clvq_lens.training.interrupt import add_each
from clvq_lens.training.tokens import TokenBatch, token_batches


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
    gives the flow of what was read. Tokens that are outliers for one of the quantizers are left
    out. Nothing is edited, so quantizers may overlap; what ablating a code does to the next ones
    says `causal_flow`.

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
    if ends is not None:
        check_flags(ends=ends)
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
        words = WordClasses(self.host.vocabulary, cfg.d_vocab)
        self.classes = StageClasses(words, {name: size for name, _, size in names})
        for attachment in chain:
            attachment.quantizer.eval()

    def add(self, batch: TokenBatch) -> None:
        """Counts one batch."""
        nodes, mask = self._codes_and_prediction(batch)
        tokens = batch.tokens[mask].numpy()
        stages = [tokens, *nodes] if self.reads_tokens else nodes
        for pairs, pair in zip(self.pairs, pairwise(stages), strict=True):
            pairs.add(*pair)
        self.paths.add(np.stack(stages, axis=1))
        self.classes.add(tokens, nodes[: len(self.chain)])
        if self.labels is not None:
            self.labels.add(batch, mask, tokens, nodes)

    @torch.no_grad()
    def _codes_and_prediction(
        self, batch: TokenBatch
    ) -> tuple[list[Int[np.ndarray, " n"]], Bool[Tensor, "b pos"]]:
        """The nodes of tokens at every stage but that of the tokens themselves, and which tokens.

        These are the real ones that are no outliers at any stage.
        """
        tokens = batch.tokens.to(self.host.device)
        attended = batch.attended.to(self.host.device)
        sources = [attachment.source for attachment in self.chain]
        predicted = []
        if self.predicts:
            found: dict[str, Tensor] = {}
            with self.host.reading(sources, found):
                logits = self.host.run(tokens, attended)
            predicted = [logits.argmax(-1)]
        else:
            found = self.host.activations(tokens, attended, sources)
        nodes, mask = [], batch.mask
        for attachment in self.chain:
            source = found[attachment.source]
            check_finite(source[attended.to(source.device)], attachment.source)
            nodes.append(attachment.quantizer.assign(source))
            mask = mask & ~attachment.quantizer.outliers(source).cpu()
        return [part.cpu()[mask].numpy() for part in (*nodes, *predicted)], mask

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
        groups: dict[str, Groups] = {"classes": self._classes(stages)}
        if self.labels is not None:
            groups["labels"] = self.labels.groups()
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
            groups=groups,
            colours={part.name: colours_of(part.quantizer) for part in self.chain},
        )

    def _classes(self, stages: Sequence[FlowStage]) -> Groups:
        """The class of words in each node of every stage."""
        return {
            stage.name: self.classes.of(stage.name, stage.nodes)
            if stage.kind == "codes"
            else self.classes.of_tokens(stage.nodes)
            for stage in stages
        }

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
