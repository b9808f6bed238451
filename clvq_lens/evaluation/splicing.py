"""What a model says with its target replaced: by reconstructions, and by what they stand beside."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from clvq_lens.data.tokens import TokenBatch
from clvq_lens.evaluation.ablation_costs import AblationCosts
from clvq_lens.evaluation.said import Said
from clvq_lens.host.host import Host
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from clvq_lens.readouts.readout import Readout, class_logits
from clvq_lens.stats.divergence import kl_divergence
from clvq_lens.stats.estimates import Estimate
from clvq_lens.stats.jackknife import JackknifeSums, Statistic, Sums
from clvq_lens.stats.metrics import ce_loss_recovered

NOT_BELOW_ZERO = (0.0, math.inf)
"""Limits of what is never negative."""


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
        readout: What the model says about whole texts, if that is to be measured too.
        ablation_costs: Remembers what ablations cost.
    """

    def __init__(
        self,
        host: Host,
        quantizer: CrossLayerQuantizer,
        target: str,
        readout: Readout | None,
        ablation_costs: AblationCosts,
    ) -> None:
        self._host, self._quantizer = host, quantizer
        self._target, self._readout, self._ablation_costs = target, readout, ablation_costs
        self._is_predictive = quantizer.config.encoder == "predictive"
        self.reads_logits = host.runs and (host.causal or not host.outputs_tokens)
        """Whether logits say anything about layers: an encoder repeats the tokens that it sees."""

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
        """The effects that mean something here."""
        effects: dict[str, _OfSums] = {}
        if self.reads_logits:
            effects |= _KL
        if self._host.predicts_tokens:
            effects |= _CE
        if self._readout is not None:
            effects |= _READOUT
        if self._is_predictive:
            return effects
        return {name: effect for name, effect in effects.items() if "unquantized" not in name}

    def sums(self, evaluated: EvaluatedBatch, clean_logits: Tensor | None) -> dict[str, Tensor]:
        """Sums per sequence; ``clean_logits`` are those of the model as it is, where it is read."""
        values: dict[str, Tensor] = {}
        if clean_logits is not None:
            values |= self._of_logits(evaluated, clean_logits)
        if self._readout is not None:
            values |= self._of_readout(evaluated, self._readout)
        return values

    def _of_logits(self, evaluated: EvaluatedBatch, clean_logits: Tensor) -> dict[str, Tensor]:
        """Cross-entropy and KL: predictions of real tokens at real tokens.

        Where outputs are no tokens, there is only the KL of outputs at all real tokens.
        """
        predicts = self._predicting(evaluated.mask).to(clean_logits.device)
        following = evaluated.tokens.roll(-1, dims=1).to(clean_logits.device)
        said = Said(clean_logits, predicts, following)

        def measured(name: str, activations: Tensor) -> dict[str, Tensor]:
            logits = self._host.logits_with(
                self._target, activations, evaluated.tokens, evaluated.attended
            )
            sums: dict[str, Tensor] = {}
            if self._host.predicts_tokens:
                sums[f"ce_{name}"] = said.cross_entropy(logits)
            if name != "zero_ablated":
                sums[f"kl_{name}"] = said.kl(logits)
            return sums

        values = {"n_predictions": predicts.sum(1)}
        if self._host.predicts_tokens:
            values["ce_clean"] = said.cross_entropy(clean_logits)
        ablations = {"mean_ablated": self._quantizer.target_mean, "zero_ablated": 0}
        return values | self._with_each("logits", evaluated, ablations, measured)

    def _of_readout(self, evaluated: EvaluatedBatch, readout: Readout) -> dict[str, Tensor]:
        """KL of the probabilities of classes, for each text."""
        arguments = self._host, readout, self._target
        clean = class_logits(*arguments, evaluated.y, evaluated.batch)

        def measured(name: str, activations: Tensor) -> dict[str, Tensor]:
            logits = class_logits(*arguments, activations, evaluated.batch)
            return {f"readout_kl_{name}": kl_divergence(clean, logits)}

        values = {"n_read": torch.ones(len(clean), dtype=torch.long)}
        ablations = {"mean_ablated": self._quantizer.target_mean}
        return values | self._with_each("readout", evaluated, ablations, measured)

    def _with_each(
        self,
        what: str,
        evaluated: EvaluatedBatch,
        ablations: Mapping[str, Tensor | int],
        measured: Callable[[str, Tensor], dict[str, Tensor]],
    ) -> dict[str, Tensor]:
        """What is measured with the target replaced by reconstructions and by ablations."""
        # Special tokens and outliers stay: the decoder was not trained on them.
        mask, y = evaluated.mask.unsqueeze(-1), evaluated.y

        def of_each(replacements: Mapping[str, Tensor | int]) -> dict[str, Tensor]:
            sums: dict[str, Tensor] = {}
            for name, new in replacements.items():
                sums |= measured(name, torch.where(mask, new, y))
            return sums

        costs = self._ablation_costs.of(
            f"{what} {self._target}",
            [evaluated.tokens, evaluated.attended, evaluated.mask],
            self._quantizer.target_mean,
            lambda: of_each(ablations),
        )
        return of_each(self._reconstructions(evaluated)) | costs

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
