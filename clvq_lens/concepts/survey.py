"""The survey behind a concept table: one pass over any amount of text, in bounded memory."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from clvq_lens.arguments import check_count, check_positive, check_seed
from clvq_lens.concepts.concept import Concept, Neighbor, Unembedded
from clvq_lens.concepts.contexts import ContextBatch, TopContexts
from clvq_lens.concepts.label_counts import LabelCounts
from clvq_lens.concepts.profile import Profile
from clvq_lens.concepts.table import ConceptTable
from clvq_lens.concepts.unembedding import through_unembedding
from clvq_lens.config import LongTexts
from clvq_lens.data.documents import Data, open_documents
from clvq_lens.data.interrupt import add_each, noted_termination
from clvq_lens.data.reading import read
from clvq_lens.data.token_labels import TokenLabels, listed
from clvq_lens.data.tokens import TokenBatch, require_real, token_batches
from clvq_lens.host.attachment import Attached, Attachment, ready
from clvq_lens.quantizer.codebook import squared_distances
from clvq_lens.stats.metrics import entropy
from clvq_lens.stats.tally import Tally
from clvq_lens.training.checkpoint import EVERY_S, Checkpoints, State, check_resume, held
from clvq_lens.training.identity import (
    data_digest,
    labels_digest,
    model_identity,
    quantizer_identity,
)

_WORK = "concept table"  # in messages
_NEAREST = 5  # other codes named for each code
_POSITION_BINS = 1_024  # a longer context is cut into as many equal parts


def concepts(
    lens: Attached,
    data: Data,
    *,
    n_examples: int = 20,
    token_labels: TokenLabels | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: float = EVERY_S,
    resume: bool = False,
    long_texts: LongTexts = "split",
    seed: int = 0,
    progress: bool = True,
) -> ConceptTable:
    """What each code means in some data: one pass over any amount of text.

    Ctrl-C ends it early and gives the table of what was read.

    Args:
        lens: A fitted lens.
        data: Documents, as for `clvq_lens.Lens.fit`.
        n_examples: Contexts of each kind (typical, borderline, random) for each code.
        token_labels: A known label of every real token of every document, such as its part of
            speech, to compare codes with; `clvq_lens.token_labels` makes them from words.
        checkpoint: Folder for checkpoints, from which a pass that was killed goes on and ends with
            the same table. What was counted is tokenized again, and the model is not run on it.
        checkpoint_every: Seconds between two checkpoints.
        resume: Whether to go on with the last checkpoint in that folder.
        long_texts: What to do with a text beyond the context.
        seed: Random seed for the random examples and the shuffled labels.
        progress: Whether to show a progress bar.

    Returns:
        For each code its tokens, contexts, promoted tokens and neighbors; ``table[17]`` is code
        17.

    Raises:
        NotFittedError: If the quantizer has not been fitted.
        ConfigError: If ``n_examples`` or ``seed`` has an impossible value.
        EmptyCorpusError: If the data hold no real token.
        DataError: If labels do not match the tokens.
        NonFiniteError: If activations hold NaN or infinity.
        CheckpointError: If there is no checkpoint to go on with, or it is of another table.
        PathTakenError: If there are checkpoints, and ``resume`` is off.
        TerminatedError: If SIGTERM comes, with ``checkpoint``.
    """
    attachment = ready(lens)
    check_count("n_examples", n_examples, least=0)
    check_seed(seed)
    check_resume(checkpoint, resume=resume, work=_WORK)
    documents = open_documents(data)
    if checkpoint is not None and token_labels is not None:
        token_labels = listed(token_labels)  # read twice: once for their digest
    survey = _ConceptSurvey(attachment, n_examples, token_labels, seed)
    batches = token_batches(attachment.host, documents, long_texts=long_texts)
    if checkpoint is None:
        complete = add_each(batches, survey.add, desc="concepts", progress=progress)
        return survey.table(complete=complete)
    check_positive("checkpoint_every", checkpoint_every)
    identity = {
        **_identity(attachment, token_labels),
        "data": data_digest(data, documents),
        "options": {"n_examples": n_examples, "long_texts": long_texts, "seed": seed},
    }
    with held(checkpoint):
        checkpoints = Checkpoints(
            checkpoint, identity, every_s=checkpoint_every, resume=resume, work=_WORK
        )
        complete = _add_with_checkpoints(batches, survey, checkpoints, progress=progress)
    return survey.table(complete=complete)


def _identity(attachment: Attachment, token_labels: TokenLabels | None) -> dict[str, Any]:
    """What has to be the same for a survey to go on, besides data and options."""
    return {
        "quantizer": quantizer_identity(attachment),
        "model": model_identity(attachment.host),
        "token_labels": None if token_labels is None else labels_digest(token_labels),
        # It decides what a batch is, and checkpoints count batches.
        "positions_per_pass": attachment.host.positions_per_pass,
    }


def _add_with_checkpoints(
    batches: Iterable[TokenBatch],
    survey: "_ConceptSurvey",
    checkpoints: Checkpoints,
    *,
    progress: bool,
) -> bool:
    """As `add_each`, from the last checkpoint on; the state at the end is kept, too."""
    if checkpoints.resumed is not None:
        survey.restore_(checkpoints.resumed)
    missing = islice(batches, survey.n_batches, None)
    with noted_termination() as terminated:

        def add(batch: TokenBatch) -> None:
            survey.add(batch)
            checkpoints.after_step(survey.state, now=False, terminated=terminated())

        complete = add_each(missing, add, desc="concepts", progress=progress)
    checkpoints.save(survey.state())
    return complete


class _ConceptSurvey:
    """Counts, sums and examples of every code."""

    def __init__(
        self,
        attachment: Attachment,
        n_examples: int,
        token_labels: TokenLabels | None,
        seed: int,
    ) -> None:
        host, quantizer = attachment.host, attachment.quantizer
        self.host, self.quantizer, self.source = host, quantizer, attachment.source
        self.seed, self.n_codes = seed, quantizer.config.n_codes
        # Distances are shown in this unit, so that they mean the same in every model.
        self.unit = float(quantizer.codebook.mean_distance)
        self.n_batches = 0
        self.random = np.random.default_rng(seed)
        self.tokens = Tally(self.n_codes, host.cfg.d_vocab)
        self.bin_width = -(-host.n_context // _POSITION_BINS)  # rounded up
        self.positions = Tally(self.n_codes, _POSITION_BINS)
        self.recon_sums = quantizer.mean_target.new_zeros(self.n_codes, quantizer.d_target)
        self.labels = None
        if token_labels is not None:
            self.labels = LabelCounts(self.n_codes, host.cfg.d_vocab, token_labels)
        self.typical = TopContexts(self.n_codes, n_examples, distinct=True)
        self.borderline = TopContexts(self.n_codes, n_examples, distinct=True)
        # A fair sample: a context that is repeated often is drawn often.
        self.drawn = TopContexts(self.n_codes, n_examples, distinct=False)

    @torch.no_grad()
    def add(self, batch: TokenBatch) -> None:
        """Counts one batch."""
        x = read(self.host, batch, [self.source])[self.source]
        attended, real = batch.attended.to(x.device), batch.mask.to(x.device)
        mask = real & ~self.quantizer.outliers(x)
        encoded = self.quantizer.encode(x)
        nearest = self.quantizer.codebook.nearest_and_margin(encoded.flatten(0, 1))
        self._add_recon(nearest.codes.view(mask.shape), encoded, attended, mask)
        counted = mask.flatten()
        codes = nearest.codes[counted].cpu().numpy()
        distance = nearest.distance[counted].cpu().numpy()
        margin = nearest.margin[counted].cpu().numpy()
        if self.labels is not None:
            # Before the mask is replaced: labels are given for all real tokens, outliers as well.
            self.labels.add(batch, mask.cpu(), codes)
        batch = replace(batch, mask=mask.cpu())
        self._count(batch, codes)
        contexts = ContextBatch(batch, codes, distance / self.unit, margin / self.unit)
        self.typical.offer(contexts, -distance)
        self.borderline.offer(contexts, -margin)
        self.drawn.offer(contexts, self.random.random(len(codes)))
        self.n_batches += 1

    def _add_recon(self, codes: Tensor, encoded: Tensor, attended: Tensor, mask: Tensor) -> None:
        vectors = self.quantizer.codebook(codes)
        recon = self.quantizer.decode_padded(vectors, encoded=encoded, attended=attended)
        self.recon_sums.index_add_(0, codes[mask], recon[mask])

    def _count(self, batch: TokenBatch, codes: Int[np.ndarray, " n"]) -> None:
        self.tokens.add(codes, batch.tokens[batch.mask].numpy())
        positions = batch.mask.nonzero()[:, 1].numpy()
        bins = positions // self.bin_width
        # Vectors without a model may have longer texts than those that a lens was made for.
        self.positions.add(codes, np.minimum(bins, _POSITION_BINS - 1))

    def state(self) -> State:
        """All that was counted, between two batches."""
        state: State = {
            "n_batches": self.n_batches,
            "random": self.random.bit_generator.state,
            "recon_sums": self.recon_sums,
        }
        for name, part in self._parts().items():
            state[name] = part.state()
        return state

    def restore_(self, state: State) -> None:
        """Goes on where another survey of the same data was."""
        self.n_batches = state["n_batches"]
        self.random.bit_generator.state = state["random"]
        self.recon_sums.copy_(state["recon_sums"])
        for name, part in self._parts().items():
            part.restore_(state[name])

    def _parts(self) -> dict[str, Tally | TopContexts | LabelCounts]:
        """What has a state of its own."""
        parts: dict[str, Tally | TopContexts | LabelCounts] = {
            "tokens": self.tokens,
            "positions": self.positions,
            "typical": self.typical,
            "borderline": self.borderline,
            "drawn": self.drawn,
        }
        if self.labels is not None:
            parts["labels"] = self.labels
        return parts

    def table(self, *, complete: bool) -> ConceptTable:
        """The table of all batches that were counted."""
        names_of = self.host.vocabulary.names
        tokens = Profile(self.tokens, lambda ids: names_of(torch.from_numpy(ids)))
        n_tokens = int(tokens.usage.sum())
        require_real(n_tokens)
        positions = self.positions.dense()
        agreement = token_identity = None
        if self.labels is not None:
            # After Ctrl-C the labels of what was not read are no mistake.
            if complete:
                self.labels.check_all_used()
            agreement = self.labels.agreement_of_codes(seed=self.seed)
            token_identity = self.labels.agreement_of_tokens(seed=self.seed)
        return ConceptTable(
            concepts=self._concepts(tokens, positions),
            n_tokens=n_tokens,
            token_entropy=entropy(tokens.totals),
            position_entropy=entropy(positions.sum(0)),
            complete=complete,
            agreement=agreement,
            token_identity=token_identity,
        )

    def _concepts(
        self, tokens: Profile, positions: Int[np.ndarray, "code bin"]
    ) -> tuple[Concept, ...]:
        """Every code, unused ones included."""
        n_tokens = tokens.usage.sum()
        typical = self.typical.examples(self.host.vocabulary)
        borderline = self.borderline.examples(self.host.vocabulary)
        drawn = self.drawn.examples(self.host.vocabulary)
        at_target, direct = self._read_outs(tokens.usage)
        nearest = self._nearest()
        labels = None if self.labels is None else self.labels.profile()
        all_concepts: list[Concept] = []
        for code in range(self.n_codes):
            concept = Concept(
                code=code,
                name="",
                usage=int(tokens.usage[code]),
                share=float(tokens.usage[code] / n_tokens),
                tokens=tokens.commonest(code),
                distinctive=tokens.distinctive(code),
                typical=typical.get(code, ()),
                borderline=borderline.get(code, ()),
                random=drawn.get(code, ()),
                at_target=at_target.get(code),
                direct=direct.get(code),
                token_entropy=tokens.entropy(code),
                position_entropy=entropy(positions[code]),
                nearest=nearest[code],
                token_labels=() if labels is None else labels.commonest(code),
            )
            all_concepts.append(concept)
        return tuple(all_concepts)

    def _read_outs(
        self, usage: Int[np.ndarray, " code"]
    ) -> tuple[dict[int, Unembedded], dict[int, Unembedded]]:
        """What each code in use says about the next token: at the target, and directly."""
        used = np.flatnonzero(usage)
        counts = torch.from_numpy(usage[used]).to(self.recon_sums)
        shares = counts / int(usage.sum())
        mean_recon = self.recon_sums[used] / counts.unsqueeze(1)
        code_vectors = self.quantizer.codebook.vectors[used]
        at_target = self._read_out(used, mean_recon, shares)
        direct = self._read_out(used, code_vectors, shares)
        return at_target, direct

    def _read_out(
        self, used: Int[np.ndarray, " n"], vectors: Float[Tensor, "n d"], shares: Tensor
    ) -> dict[int, Unembedded]:
        """What a vector of each code says; nothing where it is not in the residual stream."""
        if vectors.shape[1] != self.host.cfg.d_model:
            return {}
        with self.host.unembedding_often():
            readouts = list(through_unembedding(self.host, vectors, shares))
        return dict(zip(used.tolist(), readouts, strict=True))

    def _nearest(self) -> list[tuple[Neighbor, ...]]:
        """The nearest other codes of every code, the nearest first."""
        vectors = self.quantizer.codebook.vectors
        distances = squared_distances(vectors, vectors) / self.unit
        distances.fill_diagonal_(torch.inf)  # or every code would be its own neighbor
        n_named = min(_NEAREST, self.n_codes - 1)
        nearest = distances.topk(n_named, dim=1, largest=False)
        neighbors: list[tuple[Neighbor, ...]] = []
        for codes, values in zip(nearest.indices.tolist(), nearest.values.tolist(), strict=True):
            neighbors.append(tuple(map(Neighbor, codes, values)))
        return neighbors
