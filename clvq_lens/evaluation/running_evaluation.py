"""An evaluation on its way: sums over batches, from which its numbers are made."""

import math
from collections.abc import Collection

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from clvq_lens.config import METRICS, Metric
from clvq_lens.data.token_labels import TokenLabels
from clvq_lens.data.tokens import TokenBatch, require_real
from clvq_lens.evaluation.ablation_costs import AblationCosts
from clvq_lens.evaluation.evaluation import Evaluation
from clvq_lens.evaluation.norms import Norms, point_norms
from clvq_lens.evaluation.recovery import RecoveryTokens
from clvq_lens.evaluation.splicing import NOT_BELOW_ZERO, EvaluatedBatch, Splicing
from clvq_lens.host.attachment import Attachment
from clvq_lens.processes import Processes
from clvq_lens.readouts.readout import Readout
from clvq_lens.stats.estimates import Estimate
from clvq_lens.stats.histogram import LogHistogram
from clvq_lens.stats.jackknife import JackknifeSums, Sums
from clvq_lens.stats.metrics import perplexity_of_usage
from clvq_lens.stats.precision import in_double

_ROUNDING = 1e-9  # fraction of a sum of squares that a difference of two such sums may be off by


class RunningEvaluation:
    """Sums over batches, from which the evaluation is made.

    Args:
        attachment: A fitted quantizer on its model.
        metrics: What is measured besides the FVU.
        token_labels: The true concepts.
        readout: What the model says about whole texts.
        seed: Random seed.
        ablation_costs: What evaluations of other quantizers have measured, and this one will.
    """

    def __init__(
        self,
        attachment: Attachment,
        metrics: Collection[Metric],
        token_labels: TokenLabels | None,
        readout: Readout | None,
        seed: int,
        ablation_costs: AblationCosts,
    ) -> None:
        host, quantizer = attachment.host, attachment.quantizer
        self.host, self.quantizer, self.metrics = host, quantizer, metrics
        self.source, self.target = attachment.source, attachment.target
        self.sums = JackknifeSums()
        self.usage = torch.zeros_like(quantizer.usage)
        self.n_documents = 0
        self.n_outliers = 0
        self.generator = torch.Generator(quantizer.device).manual_seed(seed)
        self.recovery = None if token_labels is None else RecoveryTokens(token_labels, seed)
        self.source_norms, self.target_norms = LogHistogram(), LogHistogram()
        self.errors = LogHistogram()
        self.has_controls = "controls" in metrics
        has_memory = quantizer.config.decoder_memory == "encoder"
        self.shuffles_memory = self.has_controls and has_memory
        self.is_predictive = quantizer.config.encoder == "predictive"
        self.splicing = Splicing(
            host, quantizer, attachment.target, metrics, readout, ablation_costs
        )

    @torch.no_grad()
    def add(self, batch: TokenBatch) -> None:
        """Runs the model, clean and changed, on one batch."""
        activations, clean = self.splicing.clean_pass(batch, [self.source, self.target])
        x = activations[self.source].float()
        # Blocks may sit on different devices; here everything is on that of the source.
        y = activations[self.target].float().to(x.device)
        tokens, attended = batch.on(x.device)
        mask = self._without_outliers(x, y, batch.mask.to(x.device))
        encoded = self.quantizer.encode(x)
        codes = self.quantizer.codebook.nearest(encoded)
        quantized = self.quantizer.codebook(codes)
        recon = self.quantizer.decode_padded(quantized, encoded=encoded, attended=attended)
        evaluated = EvaluatedBatch(batch, tokens, attended, mask, y, encoded, quantized, recon)
        values = self._reconstruction(evaluated) | self.splicing.sums(evaluated, clean)
        numbers = {name: value.cpu().double().numpy() for name, value in values.items()}
        self.sums.add(batch.documents, numbers)
        self.usage += torch.bincount(codes[mask], minlength=len(self.usage))
        self._count_documents(batch)
        if self.recovery is not None:
            self.recovery.add(batch, mask.cpu(), codes.cpu(), x.cpu())

    def _count_documents(self, batch: TokenBatch) -> None:
        # The pieces of a long text are one document, which its first piece counts.
        self.n_documents += sum(batch.part(row).piece == 0 for row in range(len(batch.documents)))

    def pass_over(self, batch: TokenBatch) -> None:
        """Leaves a batch to another process, and stays in step with it."""
        self.sums.register(batch.documents)
        self._count_documents(batch)
        if self.has_controls:
            self._random_codes(batch.mask)
        if self.shuffles_memory:
            self._shuffled_order(batch.attended)

    def sum_(self, processes: Processes) -> None:
        """Adds what other processes have measured.

        Raises:
            EmptyCorpusError: If there was no real token.
        """
        if not processes.shared:
            return
        (n_tokens, n_outliers) = processes.sums(int(self.usage.sum()), self.n_outliers)
        require_real(round(n_tokens))
        self.n_outliers = round(n_outliers)
        histograms = (self.source_norms, self.target_norms, self.errors)
        counts = [torch.from_numpy(histogram.counts) for histogram in histograms]
        processes.sum_([self.usage, *counts])
        self.sums.replace_(processes.sums_by_name(self.sums.sums))

    def _without_outliers(self, x: Tensor, y: Tensor, mask: Tensor) -> Tensor:
        """The mask without tokens whose activation is too long; counts and measures all."""
        self.source_norms.add(_norms_of(x[mask]))
        self.target_norms.add(_norms_of(y[mask]))
        long = self.quantizer.outliers(x, y) & mask
        self.n_outliers += int(long.sum())
        return mask & ~long

    def _reconstruction(self, evaluated: EvaluatedBatch) -> dict[str, Tensor]:
        """Sums per sequence for the FVU, and for its controls if they are wanted."""
        y, recon, mask = evaluated.y, evaluated.recon, evaluated.mask
        # The mean of these data is not known yet. The training mean is near it, so that _total does
        # not subtract two numbers that are far larger than their difference.
        centered = (y - self.quantizer.target_mean) * mask.unsqueeze(-1)
        self.errors.add((y - recon)[mask].square().sum(-1).cpu().numpy())
        values = {
            "n": mask.sum(1),
            "error": _squared_error(y, recon, mask),
            "sum": centered.sum(1),
            "squares": in_double(centered).square().sum((1, 2)),
        }
        if self.is_predictive:
            values["error_unquantized"] = _squared_error(y, evaluated.encoded, mask)
        return values | self._controls(evaluated)

    def _controls(self, evaluated: EvaluatedBatch) -> dict[str, Tensor]:
        """Errors with random codes, and with a memory that belongs to other tokens."""
        y, mask = evaluated.y, evaluated.mask
        values: dict[str, Tensor] = {}
        if self.has_controls:
            random = self.quantizer.decode_padded(
                self._random_codes(mask), encoded=evaluated.encoded, attended=evaluated.attended
            )
            values["error_random"] = _squared_error(y, random, mask)
        if self.shuffles_memory:
            shuffled = self._shuffled_memory(evaluated.encoded, evaluated.attended)
            recon_of_shuffled = self.quantizer.decode_padded(
                evaluated.quantized, encoded=shuffled, attended=evaluated.attended
            )
            values["error_shuffled"] = _squared_error(y, recon_of_shuffled, mask)
        return values

    def _random_codes(self, mask: Tensor) -> Float[Tensor, "b pos d_code"]:
        """Vectors of codes drawn for every position, by their shares."""
        drawn = torch.multinomial(
            self.quantizer.shares, mask.numel(), replacement=True, generator=self.generator
        )
        return self.quantizer.codebook(drawn.view(mask.shape))

    def _shuffled_memory(self, encoded: Tensor, attended: Tensor) -> Tensor:
        """Encoder outputs that were shuffled over all tokens of a batch, but not over padding."""
        order = self._shuffled_order(attended)
        shuffled = encoded.clone()  # the original is still needed
        shuffled[attended] = encoded[attended][order]
        return shuffled

    def _shuffled_order(self, attended: Tensor) -> Int[Tensor, " n"]:
        n_attended = int(attended.sum())
        return torch.randperm(n_attended, generator=self.generator, device=self.generator.device)

    def evaluation(self) -> Evaluation:
        """The numbers, with intervals."""
        n_tokens = int(self.usage.sum())
        require_real(n_tokens)
        fvu = self._fvu("error")
        recovery = None
        if self.recovery is not None:
            recovery = self.recovery.result(n_codes=self.quantizer.config.n_codes)
        return Evaluation(
            n_codes=self.quantizer.config.n_codes,
            n_tokens=n_tokens,
            n_documents=self.n_documents,
            fvu=fvu,
            fvu_median=self._fvu_median(),
            fvu_random_codes=self._fvu("error_random") if self.has_controls else None,
            fvu_unquantized=self._fvu("error_unquantized") if self.is_predictive else None,
            fvu_shuffled_memory=self._fvu("error_shuffled") if self.shuffles_memory else None,
            perplexity=perplexity_of_usage(self.usage),
            n_dead_codes=int((self.usage == 0).sum()),
            n_outliers=self.n_outliers,
            norms=self._norms(),
            recovery=recovery,
            left_out=self._left_out(has_fvu=not np.isnan(fvu)),
            **self.splicing.estimates(self.sums),
        )

    def _fvu(self, error: str) -> Estimate:
        """Sum of errors over the variance, of which documents hold as much as their squares."""
        return self.sums.estimate(
            lambda sums: sums[error] / _total(sums), size="squares", limits=NOT_BELOW_ZERO
        )

    def _fvu_median(self) -> float:
        """Squared error of the median token in units of the variance."""
        variance = self.sums.value(lambda sums: _total(sums) / sums["n"])
        return self.errors.median() / variance if variance > 0 else math.nan

    def _norms(self) -> Norms:
        source_limit = float(self.quantizer.max_source_norm)
        target_limit = float(self.quantizer.max_target_norm)
        return Norms(
            point_norms("source", self.source_norms, source_limit),
            point_norms("target", self.target_norms, target_limit),
        )

    def _left_out(self, *, has_fvu: bool) -> str | None:
        """What nobody asked for, and what has no meaning here, in words."""
        reasons: list[str] = []
        if self.n_documents == 1:
            reasons.append("One document says nothing about others, so there are no intervals.")
        if not has_fvu:
            reasons.append("All tokens have the same target, so it has no variance and no FVU.")
        not_wanted = [metric for metric in METRICS if metric not in self.metrics]
        if not_wanted:
            reasons.append(f"Not asked for: {', '.join(not_wanted)}.")
        if "ce" in self.metrics or "kl" in self.metrics:
            reasons += self._effects_left_out()
        return " ".join(reasons) or None

    def _effects_left_out(self) -> list[str]:
        """Why there is no cross-entropy or no KL."""
        cfg = self.host.cfg
        if not self.host.runs:
            return ["There is no model to run: cross-entropy and KL are left out."]
        if not self.host.outputs_tokens:
            return [
                f"The model has {cfg.d_vocab_out} outputs for {cfg.d_vocab} tokens, so it predicts "
                f"no next token: cross-entropy is left out, and KL is that of the outputs."
            ]
        if not self.host.causal:
            return ["An encoder predicts no next token: cross-entropy and KL are left out."]
        if not self.sums.value(lambda sums: sums["n_predictions"]):
            return ["No real token is followed by another one: cross-entropy and KL are left out."]
        return []


def _norms_of(activations: Float[Tensor, "n d"]) -> Float[np.ndarray, " n"]:
    return torch.linalg.vector_norm(activations, dim=-1).cpu().numpy()


def _squared_error(
    y: Float[Tensor, "b pos d"], recon: Float[Tensor, "b pos d"], mask: Bool[Tensor, "b pos"]
) -> Float[Tensor, " b"]:
    return in_double((y - recon).square().sum(-1) * mask).sum(1)


def _total(sums: Sums) -> np.ndarray:
    """sum ||y - mean(y)||^2 from sums that were shifted by the training mean.

    NaN where only rounding is left of it, since all activations are the same.
    """
    total = sums["squares"] - (sums["sum"] ** 2).sum(-1) / sums["n"]
    return np.where(total > _ROUNDING * sums["squares"], total, np.nan)
