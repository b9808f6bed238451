"""The same removals in the running model, and its own class probabilities after them."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm.auto import tqdm

from clvq_lens.data.tokens import TokenBatch
from clvq_lens.faithfulness.case import Case
from clvq_lens.faithfulness.controls import CONCEPT, OF_THE_TEXT, Removal, WeightedCodebook
from clvq_lens.faithfulness.effects import UNPERTURBED, Effect, effect
from clvq_lens.host.attachment import Attachment
from clvq_lens.host.last_tokens import KeptPass, is_untouched
from clvq_lens.interventions.counterfactuals import Counterfactuals
from clvq_lens.quantizer.draft import Draft
from clvq_lens.readouts.readout import (
    Readout,
    Sentence,
    class_logits,
    last_real,
    reads_last_token,
)
from clvq_lens.stats.projection import project_out, unit_basis

_ABLATIONS = ("raw", "centered", "code")  # in the order of the table


@torch.no_grad()
def model_effects(
    case: Case,
    attachment: Attachment,
    removals: Sequence[Removal],
    *,
    n_draws: int,
    progress: bool,
) -> list[Effect]:
    """Effects of removals on what the model says, that of no removal first.

    "raw" and "centered" project a direction out of the residual stream at the source, at the
    positions that make up the sentence vector. "code" replaces a code by the mean code vector
    wherever it stands in the text; only codes that stand there can be its controls.

    Args:
        case: The texts, and who reads them.
        attachment: A fitted quantizer on the model.
        removals: The concept and its controls.
        n_draws: Draws of each control, at most as many as were drawn.
        progress: Whether to show a progress bar.
    """
    unperturbed = case.salient.probabilities
    shape = (len(case.texts), n_draws, unperturbed.shape[1])
    probabilities: dict[tuple[str, str], np.ndarray] = {}
    codebook = WeightedCodebook.of(attachment.quantizer)
    mean = case.vectors.source.mean(0)
    projections = _projections(removals, codebook, mean, n_draws)
    bar = tqdm(total=len(case.texts), desc="ablate", unit="text", disable=not progress)
    with bar, attachment.host.unembedding_often():
        for reader in case.readers:
            for batch in case.tokens.batches(reader.texts):
                rows = list(batch.documents)
                ablated = _AblatedBatch(attachment, reader.readout, batch, case.sentence)
                for run in ablated.runs(projections, removals, n_draws):
                    key = run.ablation, run.condition
                    if key not in probabilities:
                        probabilities[key] = np.full(shape, np.nan)
                    probabilities[key][rows, run.draw] = run.probabilities
                bar.update(len(rows))
    classes = case.texts.classes
    effects = [effect(("model", "", UNPERTURBED), unperturbed[:, None], unperturbed, classes)]
    for ablation, condition in sorted(probabilities, key=lambda key: _ABLATIONS.index(key[0])):
        values = probabilities[ablation, condition]
        drawn = ~np.isnan(values).all((0, 2))  # the concept itself has one draw
        name = ("model", ablation, condition)
        effects.append(effect(name, values[:, drawn], unperturbed, classes))
    return effects


class _Ablated(NamedTuple):
    """What the model says of a batch of texts with something missing."""

    ablation: str
    condition: str
    draw: int
    probabilities: Float[np.ndarray, "b c"]


class _Projection(NamedTuple):
    """A direction for each text, which is projected out of it."""

    ablation: str
    condition: str
    draw: int
    directions: Float[np.ndarray, "n d"]
    origin: Float[np.ndarray, " d"]

    def ablated(self, probabilities: Float[np.ndarray, "b c"]) -> _Ablated:
        """What the model says after it."""
        return _Ablated(self.ablation, self.condition, self.draw, probabilities)


def _projections(
    removals: Sequence[Removal],
    codebook: WeightedCodebook,
    mean: Float[np.ndarray, " d"],
    n_draws: int,
) -> list[_Projection]:
    """All that is projected out of each text: raw, and centered from the mean sentence vector."""
    projections: list[_Projection] = []
    for removal in removals:
        centered = codebook.centered(removal)
        ways = (("raw", removal.directions, np.zeros_like(mean)), ("centered", centered, mean))
        for ablation, directions, origin in ways:
            for draw in range(min(n_draws, directions.shape[1])):
                name = ablation, removal.condition, draw
                projections.append(_Projection(*name, directions[:, draw], origin))
    return projections


class _AblatedBatch:
    """One batch of texts, run again and again with something missing."""

    def __init__(
        self, attachment: Attachment, readout: Readout, batch: TokenBatch, sentence: Sentence
    ) -> None:
        self.attachment, self.readout, self.batch = attachment, readout, batch
        self.host, self.quantizer = attachment.host, attachment.quantizer
        self.rows = list(batch.documents)
        self.sentence: Sentence = sentence

    def runs(
        self, projections: Sequence[_Projection], removals: Sequence[Removal], n_draws: int
    ) -> Iterator[_Ablated]:
        """Every removal in every way, draw by draw."""
        source = self.attachment.source
        until = self.readout.until(self.host) or self.host.resolve(self.host.n_layers - 1)
        inputs = self.batch.on(self.host.device)
        # What changes at the last token changes nothing before it, so that token is run alone.
        if self.sentence == "last" and reads_last_token(self.readout) and is_untouched(self.host):
            kept = KeptPass(self.host, *inputs, [source, until])
            if kept.is_complete:
                yield from self._runs_of_last_tokens(projections, kept)
                yield from self._runs_without_codes(removals, n_draws)
                return
        stream = self.host.activations(*inputs, [source])[source]
        where = sentence_positions(self.batch, self.sentence).to(stream.device).unsqueeze(-1)
        for one in projections:
            left = torch.where(where, self._without(one, stream), stream)
            logits = class_logits(self.host, self.readout, source, left, self.batch)
            yield one.ablated(_probabilities(logits))
        yield from self._runs_without_codes(removals, n_draws)

    def _runs_of_last_tokens(
        self, projections: Sequence[_Projection], kept: KeptPass
    ) -> Iterator[_Ablated]:
        """The same by passes of one token, which take many projections of a text at a time."""
        stream = kept.activations[self.attachment.source]
        at = last_real(self.batch)
        texts = torch.arange(len(at), device=stream.device)
        vectors = stream[texts, at.to(stream.device)].unsqueeze(1)
        left = torch.stack([self._without(one, vectors) for one in projections], dim=1)
        of_texts: list[np.ndarray] = []
        for row, position in enumerate(at.tolist()):
            # The keys and values of the text are there once for each row of a pass.
            rows_per_pass = max(1, self.host.positions_per_pass // (position + 1))
            parts = []
            for part in left[row].split(rows_per_pass):
                parts.append(self._read_last_token(kept, row, position, part))
            of_texts.append(np.concatenate(parts))
        for one, probabilities in zip(projections, np.stack(of_texts, axis=1), strict=True):
            yield one.ablated(probabilities)

    def _read_last_token(
        self, kept: KeptPass, row: int, position: int, values: Float[Tensor, "r 1 d"]
    ) -> Float[np.ndarray, "r c"]:
        n = len(values)
        everywhere = torch.ones(n, 1, dtype=torch.bool)
        tokens = self.batch.tokens[row, position].expand(n, 1)
        token = TokenBatch(tokens, everywhere, everywhere, (self.rows[row],) * n)
        past = kept.before(row, position, n)
        source = self.attachment.source
        logits = class_logits(self.host, self.readout, source, values, token, past=past)
        return _probabilities(logits)

    def _without(
        self, projection: _Projection, values: Float[Tensor, "b pos d"]
    ) -> Float[Tensor, "b pos d"]:
        """Activations without the direction of each text."""
        # In float32 whatever the model runs in: half precision would leave some of the direction.
        options = {"device": values.device, "dtype": torch.float32}
        basis = unit_basis(torch.as_tensor(projection.directions[self.rows], **options))
        origin = torch.as_tensor(projection.origin, **options)
        return project_out(values.float(), basis, origin).to(values.dtype)

    def _runs_without_codes(self, removals: Sequence[Removal], n_draws: int) -> Iterator[_Ablated]:
        columns = self.readout.columns(self.batch)
        until = self.readout.until(self.host)
        runs = Counterfactuals(self.attachment, self.batch, until=until, columns=columns)
        experiments = list(_code_experiments(removals, n_draws))
        # A generator: drafts are made as they are run, and never held all at once.
        drafts = (self._draft_without(runs, one.codes[self.rows]) for one in experiments)
        outcomes = runs.outcomes(drafts)
        for experiment, (rows, outcome) in zip(experiments, outcomes, strict=True):
            # Only texts in which a code acts are run again; the others say what they said.
            after = runs.outcome.index_copy(0, rows.to(outcome.device), outcome)
            logits = self.readout.classes(after, self.batch, host=self.host, columns=columns)
            name = experiment.condition, experiment.draw
            yield _Ablated("code", *name, _probabilities(logits))

    def _draft_without(self, runs: Counterfactuals, codes: np.ndarray) -> Draft:
        """The mean code vector wherever a text has its own of these codes."""
        own = torch.as_tensor(codes, device=runs.draft.codes.device).unsqueeze(1)
        where = (runs.draft.codes == own) & self.batch.mask.to(own.device)
        return runs.draft.with_mean(self.quantizer.shares @ self.quantizer.codebook.vectors, where)


class _CodeExperiment(NamedTuple):
    """A code of each text that is to be replaced."""

    condition: str
    draw: int
    codes: np.ndarray


def _code_experiments(removals: Sequence[Removal], n_draws: int) -> Iterator[_CodeExperiment]:
    for removal in removals:
        # Other controls are codes that the text may not have, so there is nothing to replace.
        if removal.condition in (CONCEPT, OF_THE_TEXT) and removal.codes is not None:
            for draw in range(min(n_draws, removal.codes.shape[1])):
                yield _CodeExperiment(removal.condition, draw, removal.codes[:, draw])


def _probabilities(logits: Float[Tensor, "b c"]) -> Float[np.ndarray, "b c"]:
    return logits.double().softmax(-1).cpu().numpy()


def sentence_positions(batch: TokenBatch, sentence: Sentence) -> Bool[Tensor, "b pos"]:
    """The positions that make up the sentence vector of each text."""
    if sentence == "mean":
        return batch.mask
    # "cls" is the first attended position, special or not.
    at = last_real(batch) if sentence == "last" else batch.attended.int().argmax(1)
    return torch.arange(batch.mask.shape[1]) == at.unsqueeze(1)
