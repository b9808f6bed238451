"""The same removals in the running model, and its own class probabilities after them."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm.auto import tqdm

from clvq_lens.faithfulness.case import Case
from clvq_lens.faithfulness.controls import CONCEPT, OF_THE_TEXT, Codes, Removal
from clvq_lens.faithfulness.effects import Effect, effect
from clvq_lens.faithfulness.groups import batches_of
from clvq_lens.host.attach import Attachment
from clvq_lens.interventions.readout import Readout, Sentence, class_logits, last_real
from clvq_lens.interventions.runs import Counterfactuals
from clvq_lens.quantizer.draft import Draft
from clvq_lens.training.tokens import TokenBatch

_ABLATIONS = ("raw", "centred", "code")


@torch.no_grad()
def in_model(
    case: Case,
    attachment: Attachment,
    found: Sequence[Removal],
    *,
    n_draws: int,
    progress: bool,
) -> list[Effect]:
    """Effects of removals on what the model says.

    "raw" and "centred" project a direction out of the residual stream at the source, at the
    positions that make up the sentence vector. "code" replaces a code by the mean code vector
    wherever it stands in the text; only codes that stand there can be its controls.

    Args:
        case: The texts, and who reads them.
        attachment: Of a fitted quantizer.
        found: The concept and its controls.
        n_draws: Of each control, at most as many as were drawn.
        progress: Whether to show a progress bar.
    """
    texts, unperturbed = case.texts, case.salient.probabilities
    shape = (len(texts), n_draws, unperturbed.shape[1])
    said: dict[tuple[str, str], np.ndarray] = {}
    codes = Codes.of(attachment.quantizer)
    centered = [codes.centered(removal) for removal in found]
    with tqdm(total=len(texts), desc="ablate", unit="text", disable=not progress) as bar:
        for group in case.groups:
            for rows, batch in batches_of(case.host, group, texts.texts, case.long_texts):
                run = _Batch(case, attachment, group.readout, rows, batch)
                for name, draw, classes in run.said(found, centered, n_draws):
                    said.setdefault(name, np.full(shape, np.nan))[rows, draw] = classes
                bar.update(len(rows))
    return [
        effect(
            ("model", *name), values[:, ~np.isnan(values).all((0, 2))], unperturbed, texts.labels
        )
        for name, values in sorted(said.items(), key=lambda item: _ABLATIONS.index(item[0][0]))
    ]


class _Batch:
    """One batch of texts, run again and again with something missing."""

    def __init__(
        self,
        case: Case,
        attachment: Attachment,
        readout: Readout,
        rows: np.ndarray,
        batch: TokenBatch,
    ) -> None:
        self.attachment, self.readout, self.rows, self.batch = attachment, readout, rows, batch
        self.host, self.quantizer = attachment.host, attachment.quantizer
        self.mean = case.vectors.source.mean(0)
        self.positions = sentence_positions(batch, case.sentence)

    def said(
        self, found: Sequence[Removal], centered: Sequence[np.ndarray], n_draws: int
    ) -> Iterator[tuple[tuple[str, str], int, np.ndarray]]:
        """Probabilities of classes in each condition and draw."""
        source = self.attachment.source
        attended = self.batch.attended.to(self.host.device)
        tokens = self.batch.tokens.to(self.host.device)
        stream = self.host.activations(tokens, attended, [source])[source]
        zero = np.zeros_like(self.mean)
        for removal, from_mean in zip(found, centered, strict=True):
            for name, directions, origin in (
                ("raw", removal.directions, zero),
                ("centred", from_mean, self.mean),
            ):
                for draw in range(min(n_draws, directions.shape[1])):
                    left = _projected(stream, self.positions, directions[self.rows, draw], origin)
                    yield (name, removal.condition), draw, self._classes(left)
        yield from self._without_codes(found, n_draws)

    def _classes(self, stream: Tensor) -> np.ndarray:
        logits = class_logits(self.host, self.readout, self.attachment.source, stream, self.batch)
        return logits.double().softmax(-1).cpu().numpy()

    def _without_codes(
        self, found: Sequence[Removal], n_draws: int
    ) -> Iterator[tuple[tuple[str, str], int, np.ndarray]]:
        columns = self.readout.columns(self.batch)
        runs = Counterfactuals(
            self.attachment, self.batch, until=self.readout.until(self.host), columns=columns
        )
        wanted = [
            (removal.condition, draw, removal.codes[self.rows, draw])
            for removal in found
            if removal.condition in (CONCEPT, OF_THE_TEXT) and removal.codes is not None
            for draw in range(min(n_draws, removal.codes.shape[1]))
        ]
        drafts = (self._without(runs, codes) for _, _, codes in wanted)
        for (condition, draw, _), (rows, outcome) in zip(
            wanted, runs.outcomes(drafts), strict=True
        ):
            after = runs.outcome.index_copy(0, rows.to(outcome.device), outcome)
            logits = self.readout.classes(after, self.batch, host=self.host, columns=columns)
            yield ("code", condition), draw, logits.double().softmax(-1).cpu().numpy()

    def _without(self, runs: Counterfactuals, codes: np.ndarray) -> Draft:
        """The mean code vector wherever a text has its own of these codes."""
        own = torch.as_tensor(codes, device=runs.draft.codes.device).unsqueeze(1)
        where = (runs.draft.codes == own) & self.batch.mask.to(own.device)
        return runs.draft.with_mean(self.quantizer.shares @ self.quantizer.codebook.vectors, where)


def sentence_positions(batch: TokenBatch, sentence: Sentence) -> Bool[Tensor, "b pos"]:
    """The positions that make up the sentence vector of each text."""
    if sentence == "mean":
        return batch.mask
    at = last_real(batch) if sentence == "last" else batch.attended.int().argmax(1)
    return torch.arange(batch.mask.shape[1]) == at.unsqueeze(1)


def _projected(
    stream: Float[Tensor, "b pos d"],
    positions: Bool[Tensor, "b pos"],
    directions: Float[np.ndarray, "b d"],
    origin: Float[np.ndarray, " d"],
) -> Float[Tensor, "b pos d"]:
    """The stream without a direction of each text, at some positions."""
    direction = torch.as_tensor(directions).to(stream.device, torch.float32)
    unit = torch.nn.functional.normalize(direction, dim=-1).unsqueeze(1)
    from_origin = stream.float() - torch.as_tensor(origin).to(stream.device, torch.float32)
    left = stream.float() - (from_origin * unit).sum(-1, keepdim=True) * unit
    return torch.where(positions.to(stream.device).unsqueeze(-1), left.to(stream.dtype), stream)
