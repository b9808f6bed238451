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
from clvq_lens.interventions.counterfactuals import Counterfactuals
from clvq_lens.quantizer.draft import Draft
from clvq_lens.readouts.readout import Readout, Sentence, class_logits, last_real
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
    directions = _Directions(removals, codebook, case.vectors.source.mean(0))
    with tqdm(total=len(case.texts), desc="ablate", unit="text", disable=not progress) as bar:
        for reader in case.readers:
            for batch in case.tokens.batches(reader.texts):
                rows = list(batch.documents)
                ablated = _AblatedBatch(attachment, reader.readout, batch, case.sentence)
                for run in ablated.runs(directions, n_draws):
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


class _Directions:
    """What is projected out in each condition, raw and centered.

    Args:
        removals: The concept and its controls.
        codebook: The codebook.
        mean: The mean sentence vector, from which centered directions go out.
    """

    def __init__(
        self,
        removals: Sequence[Removal],
        codebook: WeightedCodebook,
        mean: Float[np.ndarray, " d"],
    ) -> None:
        self.removals = removals
        self.mean = mean
        self.zero = np.zeros_like(mean)
        # Once for all batches: with all draws of all texts it is a large array.
        self.centered = [codebook.centered(removal) for removal in removals]


class _Ablated(NamedTuple):
    """What the model says of a batch of texts with something missing."""

    ablation: str
    condition: str
    draw: int
    probabilities: Float[np.ndarray, "b c"]


class _AblatedBatch:
    """One batch of texts, run again and again with something missing."""

    def __init__(
        self, attachment: Attachment, readout: Readout, batch: TokenBatch, sentence: Sentence
    ) -> None:
        self.attachment, self.readout, self.batch = attachment, readout, batch
        self.host, self.quantizer = attachment.host, attachment.quantizer
        self.rows = list(batch.documents)
        self.positions = sentence_positions(batch, sentence)

    def runs(self, directions: _Directions, n_draws: int) -> Iterator[_Ablated]:
        """Every removal in every way, draw by draw."""
        source = self.attachment.source
        stream = self.host.activations(*self.batch.on(self.host.device), [source])[source]
        for removal, centered in zip(directions.removals, directions.centered, strict=True):
            condition = removal.condition
            raw = removal.directions
            for draw in range(min(n_draws, raw.shape[1])):
                left = self._without(stream, raw[self.rows, draw], directions.zero)
                yield _Ablated("raw", condition, draw, self._read(left))
            for draw in range(min(n_draws, centered.shape[1])):
                left = self._without(stream, centered[self.rows, draw], directions.mean)
                yield _Ablated("centered", condition, draw, self._read(left))
        yield from self._runs_without_codes(directions.removals, n_draws)

    def _without(
        self,
        stream: Float[Tensor, "b pos d"],
        directions: Float[np.ndarray, "b d"],
        origin: Float[np.ndarray, " d"],
    ) -> Float[Tensor, "b pos d"]:
        """The stream without a direction of each text, at the positions of its sentence vector."""
        # In float32 whatever the model runs in: half precision would leave some of the direction.
        basis = unit_basis(torch.as_tensor(directions).to(stream.device, torch.float32))
        mean = torch.as_tensor(origin).to(stream.device, torch.float32)
        left = project_out(stream.float(), basis, mean)
        where = self.positions.to(stream.device).unsqueeze(-1)
        return torch.where(where, left.to(stream.dtype), stream)

    def _read(self, stream: Float[Tensor, "b pos d"]) -> Float[np.ndarray, "b c"]:
        source = self.attachment.source
        return _probabilities(class_logits(self.host, self.readout, source, stream, self.batch))

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
