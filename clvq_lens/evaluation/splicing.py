"""What a model says with its target replaced: by reconstructions, and by what they stand beside."""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from clvq_lens.data.reading import read, read_with_logits
from clvq_lens.data.tokens import TokenBatch
from clvq_lens.evaluation.ablation_costs import AblationCosts, key_of
from clvq_lens.evaluation.said import Said
from clvq_lens.host.ending import ends_plainly
from clvq_lens.host.host import Host
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from clvq_lens.readouts.readout import Readout, class_logits
from clvq_lens.stats.divergence import kl_divergence
from clvq_lens.stats.estimates import Estimate
from clvq_lens.stats.jackknife import JackknifeSums, Statistic, Sums
from clvq_lens.stats.metrics import ce_loss_recovered

NOT_BELOW_ZERO = (0.0, math.inf)
"""Limits of what is never negative."""
_WHOLE_CPU, _WHOLE_GPU = 2**25, 2**29  # logits of a pass that makes all of them: 128 MB and 2 GB


@dataclass(frozen=True)
class EvaluatedBatch:
    """A batch as it went through the model and the quantizer.

    Attributes:
        batch: The documents.
        tokens: Token ids, on the device of the quantizer as all that follows.
        attended: True where a sequence has a token.
        mask: True on real tokens that are no outliers.
        y: Activations at the target.
        encoded: Encoder outputs.
        quantized: Code vectors.
        recon: Reconstruction of the target.
    """

    batch: TokenBatch
    tokens: Int[Tensor, "b pos"]
    attended: Bool[Tensor, "b pos"]
    mask: Bool[Tensor, "b pos"]
    y: Float[Tensor, "b pos d_target"]
    encoded: Float[Tensor, "b pos d_code"]
    quantized: Float[Tensor, "b pos d_code"]
    recon: Float[Tensor, "b pos d_target"]


class Splicing:
    """Runs the model with its target replaced.

    Args:
        host: The model.
        quantizer: A fitted quantizer.
        target: Hook point of the target.
        metrics: What is wanted of cross-entropy, "ce", and KL, "kl".
        readout: What the model says about whole texts, if that is to be measured too.
        ablation_costs: Remembers what ablations cost.
    """

    def __init__(
        self,
        host: Host,
        quantizer: CrossLayerQuantizer,
        target: str,
        metrics: Collection[str],
        readout: Readout | None,
        ablation_costs: AblationCosts,
    ) -> None:
        self._host, self._quantizer = host, quantizer
        self._target, self._readout, self._ablation_costs = target, readout, ablation_costs
        self._is_predictive = quantizer.config.encoder == "predictive"
        self._wants_ce = "ce" in metrics and host.predicts_tokens
        # Of logits, an encoder says nothing about layers: it repeats the tokens that it sees.
        has_kl = host.runs and (host.causal or not host.outputs_tokens)
        self._wants_kl = "kl" in metrics and has_kl
        self._reads_logits = self._wants_ce or self._wants_kl
        # Where all logits follow from it, no logits of a whole batch are made.
        self._last: str | None = None
        if self._reads_logits and ends_plainly(host, target):
            self._last = host.protocol.residual_after(host.n_layers - 1)

    def estimates(self, sums: JackknifeSums) -> dict[str, Estimate | None]:
        """All effects by name; None where one means nothing for this model or these data.

        Args:
            sums: What was summed over all batches.
        """
        estimates: dict[str, Estimate | None] = dict.fromkeys((*_CE, *_KL, *_READOUT))
        for name, effect in self._effects.items():
            if sums.value(_sum(effect.size)) > 0:
                estimates[name] = sums.estimate(
                    effect.statistic, size=effect.size, limits=effect.limits
                )
        return estimates

    @property
    def _effects(self) -> "dict[str, _OfSums]":
        """The effects that are wanted and mean something here."""
        effects: dict[str, _OfSums] = {}
        if self._wants_kl:
            effects |= _KL
        if self._wants_ce:
            effects |= _CE
        if self._readout is not None:
            effects |= _READOUT
        if self._is_predictive:
            return effects
        return {name: effect for name, effect in effects.items() if "unquantized" not in name}

    # ---- the model as it is --------------------------------------------------------------------

    def unembedding(self) -> AbstractContextManager[Any]:
        """While open, logits of a few rows at a time take no longer than those of many."""
        return self._host.unembedding_often() if self._reads_logits else nullcontext()

    def in_parts(self, batch: TokenBatch) -> Iterator[TokenBatch]:
        """A batch, a few rows at a time if the logits of all of them have to be in memory."""
        if not self._reads_logits or self._last is not None:
            yield batch
            return
        on_cpu = self._host.device.type == "cpu"
        n_logits_of_row = batch.tokens.shape[1] * self._host.cfg.d_vocab_out
        n_rows = max(1, (_WHOLE_CPU if on_cpu else _WHOLE_GPU) // n_logits_of_row)
        for first in range(0, len(batch.tokens), n_rows):
            yield _rows_of(batch, slice(first, first + n_rows))

    def clean_pass(
        self, batch: TokenBatch, points: Sequence[str]
    ) -> tuple[dict[str, Float[Tensor, "b pos d"]], Float[Tensor, "b pos d_outcome"] | None]:
        """Activations at hook points, and the outcome of the pass if that is to be compared.

        Args:
            batch: What the model reads.
            points: Hook points up to the target; nothing above it is computed without need.

        Returns:
            Activations by hook point, and the residual stream after the last block, or logits
            where these do not follow from it.
        """
        if not self._reads_logits:
            return read(self._host, batch, points), None
        if self._last is None:
            return read_with_logits(self._host, batch, points)
        if batch.stored is None:
            activations = read(self._host, batch, [*points, self._last])
            return activations, activations[self._last]
        activations = read(self._host, batch, points)
        return activations, self._outcome(activations[self._target], *batch.on(self._host.device))

    # ---- the model with its target replaced ----------------------------------------------------

    def sums(self, evaluated: EvaluatedBatch, clean: Tensor | None) -> dict[str, Tensor]:
        """Sums per sequence; ``clean`` is the outcome that `clean_pass` gave."""
        values: dict[str, Tensor] = {}
        if clean is not None:
            values |= self._of_logits(evaluated, clean)
        if self._readout is not None:
            values |= self._of_readout(evaluated, self._readout)
        return values

    def _of_logits(self, evaluated: EvaluatedBatch, clean: Tensor) -> dict[str, Tensor]:
        """Cross-entropy and KL: predictions of real tokens at real tokens.

        Where outputs are no tokens, there is only the KL of outputs at all real tokens.
        """
        predicts = self._predicting(evaluated.mask).to(clean.device)
        following = evaluated.tokens.roll(-1, dims=1).to(clean.device)
        said = Said(
            clean,
            predicts,
            following if self._wants_ce else None,
            _as_they_are if self._last is None else self._host.unembed,
            d_vocab=self._host.cfg.d_vocab_out,
            with_kl=self._wants_kl,
        )

        def measured(changed: Iterator[tuple[str, Tensor]]) -> dict[str, Tensor]:
            outcomes: dict[str, Tensor] = {}
            sums: dict[str, Tensor] = {}
            for name, activations in changed:
                outcomes[name] = self._outcome(activations, evaluated.tokens, evaluated.attended)
                if self._last is None:  # logits of a batch are large: one at a time
                    sums |= said.sums(outcomes)
                    outcomes.clear()
            # All together, because clean logits of each token are then computed once.
            return sums | said.sums(outcomes) if outcomes else sums

        ablations = {"mean_ablated": self._quantizer.target_mean}
        if self._wants_ce:
            ablations["zero_ablated"] = torch.zeros_like(self._quantizer.target_mean)
        what = f"logits, ce {self._wants_ce}, kl {self._wants_kl}"
        values = {"n_predictions": predicts.sum(1)}
        return values | self._with_each(what, evaluated, ablations, measured)

    def _outcome(self, target: Tensor, tokens: Tensor, attended: Tensor) -> Tensor:
        """The outcome of a pass with the target replaced, computed from there on."""
        arguments = self._target, target, tokens, attended
        if self._last is None:
            return self._host.logits_with(*arguments)
        return self._host.activations_with(*arguments, until=self._last)

    def _of_readout(self, evaluated: EvaluatedBatch, readout: Readout) -> dict[str, Tensor]:
        """KL of the probabilities of classes, for each text."""
        arguments = self._host, readout, self._target
        clean = class_logits(*arguments, evaluated.y, evaluated.batch)

        def measured(changed: Iterator[tuple[str, Tensor]]) -> dict[str, Tensor]:
            sums: dict[str, Tensor] = {}
            for name, activations in changed:
                logits = class_logits(*arguments, activations, evaluated.batch)
                sums[f"readout_kl_{name}"] = kl_divergence(clean, logits)
            return sums

        values = {"n_read": torch.ones(len(clean), dtype=torch.long)}
        ablations = {"mean_ablated": self._quantizer.target_mean}
        return values | self._with_each("readout", evaluated, ablations, measured)

    def _with_each(
        self,
        what: str,
        evaluated: EvaluatedBatch,
        ablations: Mapping[str, Tensor],
        measured: Callable[[Iterator[tuple[str, Tensor]]], dict[str, Tensor]],
    ) -> dict[str, Tensor]:
        """What is measured with the target replaced by reconstructions and by ablations."""
        # Special tokens and outliers stay: the decoder was not trained on them.
        mask, y = evaluated.mask.unsqueeze(-1), evaluated.y
        costs, mean = self._ablation_costs, self._quantizer.target_mean
        key = key_of(
            f"{what} {self._target}", [evaluated.tokens, evaluated.attended, evaluated.mask]
        )
        known = costs.recalled(key, mean)
        replacements = self._reconstructions(evaluated)
        if known is None:
            replacements |= ablations
        sums = measured((name, torch.where(mask, new, y)) for name, new in replacements.items())
        if known is not None:
            return sums | known
        of_ablations = {name: sums[name] for name in sums if name.endswith(tuple(ablations))}
        costs.remember_(key, mean, of_ablations)
        return sums

    def _reconstructions(self, evaluated: EvaluatedBatch) -> dict[str, Tensor]:
        """What the quantizer puts in place of the target, by name."""
        reconstructions = {"spliced": evaluated.recon}
        if self._is_predictive:
            reconstructions["unquantized"] = evaluated.encoded
        return reconstructions

    def _predicting(self, mask: Bool[Tensor, "b pos"]) -> Bool[Tensor, "b pos"]:
        """Where the output counts: at real tokens, which have to be followed by one to predict."""
        if not self._host.predicts_tokens:
            return mask
        followed = mask.roll(-1, dims=1)
        followed[:, -1] = False  # the last position predicts a token that is not there
        return mask & followed


def _as_they_are(logits: Tensor) -> Tensor:
    return logits


def _rows_of(batch: TokenBatch, rows: slice) -> TokenBatch:
    """Some sequences of a batch."""
    return replace(
        batch,
        tokens=batch.tokens[rows],
        attended=batch.attended[rows],
        mask=batch.mask[rows],
        documents=batch.documents[rows],
        parts=None if batch.parts is None else batch.parts[rows],
        stored=None if batch.stored is None else batch.stored[rows],
    )


class _OfSums(NamedTuple):
    """How an effect comes from sums, what tells how much a document counts, and its limits."""

    statistic: Statistic
    size: str
    limits: tuple[float, float]


def _sum(name: str) -> Statistic:
    return lambda sums: sums[name]


def _per(size: str, name: str) -> _OfSums:
    return _OfSums(lambda sums: sums[name] / sums[size], size, NOT_BELOW_ZERO)


def _recovered(spliced: str, ablated: str) -> _OfSums:
    def statistic(sums: Sums) -> np.ndarray:
        return ce_loss_recovered(sums["ce_clean"], sums[spliced], sums[ablated])

    # Splicing may even improve predictions, or do worse than the ablation.
    return _OfSums(statistic, "n_predictions", (-math.inf, math.inf))


_CE = {
    "ce_clean": _per("n_predictions", "ce_clean"),
    "ce_spliced": _per("n_predictions", "ce_spliced"),
    "ce_mean_ablated": _per("n_predictions", "ce_mean_ablated"),
    "ce_zero_ablated": _per("n_predictions", "ce_zero_ablated"),
    "ce_loss_recovered": _recovered("ce_spliced", "ce_mean_ablated"),
    "ce_loss_recovered_zero": _recovered("ce_spliced", "ce_zero_ablated"),
    "ce_loss_recovered_unquantized": _recovered("ce_unquantized", "ce_mean_ablated"),
}
_KL = {
    "kl": _per("n_predictions", "kl_spliced"),
    "kl_mean_ablated": _per("n_predictions", "kl_mean_ablated"),
    "kl_unquantized": _per("n_predictions", "kl_unquantized"),
}
_READOUT = {
    "readout_kl": _per("n_read", "readout_kl_spliced"),
    "readout_kl_mean_ablated": _per("n_read", "readout_kl_mean_ablated"),
    "readout_kl_unquantized": _per("n_read", "readout_kl_unquantized"),
}
