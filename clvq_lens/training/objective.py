"""The training loss: reconstruction, function (KL in the model) and commitment."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clvq_lens.config import FitConfig
from clvq_lens.data.activations import Activations
from clvq_lens.host.attachment import Attachment
from clvq_lens.host.ending import ends_plainly
from clvq_lens.quantizer.codebook import Assignment, straight_through
from clvq_lens.stats.divergence import kl_divergence, mean_kl_by_parts

# Logits whose KL is computed at once: 16 MB of float32 on a CPU and 256 MB elsewhere, of which
# about seven copies are needed for the gradient.
_LOGITS_ON_CPU, _LOGITS_ELSEWHERE = 2**22, 2**26


@dataclass(frozen=True)
class Loss:
    """The parts of the loss on one batch.

    Attributes:
        total: The weighted sum that is minimized; of a share, its part of the sum.
        squared_error: Summed over real tokens and dimensions.
        kl: KL(clean || spliced), nats per token; None unless asked for.
        commitment: Mean squared distance to the code vector, per dimension.
    """

    total: Float[Tensor, ""]
    squared_error: Float[Tensor, ""]
    kl: Float[Tensor, ""] | None
    commitment: Float[Tensor, ""]


@dataclass(frozen=True)
class Step:
    """A forward pass of training: the loss, and what the EMA update needs, at every position."""

    loss: Loss
    encoded: Float[Tensor, "b pos d_code"]
    codes: Int[Tensor, "b pos"]
    nearest: Int[Tensor, "b pos"]


class Objective:
    """Computes the loss of a batch.

    Args:
        attachment: The quantizer that is fitted, on its model.
        config: The weights of the parts.
        samples: Whether training draws codes among the nearest; else it takes the nearest.
    """

    def __init__(self, attachment: Attachment, config: FitConfig, *, samples: bool = True) -> None:
        self.host, self.target = attachment.host, attachment.target
        self.quantizer, self.config, self.samples = attachment.quantizer, config, samples

    def clocks(
        self, batch: Activations, generator: torch.Generator
    ) -> Float[Tensor, "rows pos top_k"]:
        """The randomness that decides the codes of a whole batch, of which this may be a share."""
        # Drawn even if this share has no rows: generators of all processes stay in step.
        n_rows, n_positions = batch.share.n_rows, batch.mask.shape[1]
        clocks = self.quantizer.codebook.clocks(n_rows * n_positions, generator=generator)
        return clocks.unflatten(0, (n_rows, n_positions))

    def training_step(
        self, batch: Activations, clocks: Float[Tensor, "rows pos top_k"] | None
    ) -> Step:
        """The loss with codes as training has them.

        Args:
            batch: Activations.
            clocks: What `clocks` drew for the batch; None, if training takes the nearest codes.
        """
        encoded = self.quantizer.encode(batch.source)
        # Everywhere, because the decoder also attends to special tokens, which the mask leaves out.
        if clocks is None:
            nearest = self.quantizer.codebook.nearest(encoded.detach()).flatten()
            assignment = Assignment(nearest, nearest)
        else:
            mine = clocks[batch.share.rows].flatten(0, 1)
            assignment = self.quantizer.codebook.sample_by(encoded.detach(), mine)
        codes = assignment.codes.view(batch.mask.shape)
        quantized = straight_through(encoded, self.quantizer.codebook(codes))
        loss = self._loss(batch, encoded, quantized)
        return Step(loss, encoded.detach(), codes, assignment.nearest.view(batch.mask.shape))

    @torch.no_grad()
    def evaluate(self, batch: Activations) -> Loss:
        """The loss with nearest codes."""
        encoded = self.quantizer.encode(batch.source)
        quantized = self.quantizer.codebook(self.quantizer.codebook.nearest(encoded))
        return self._loss(batch, encoded, quantized)

    def _loss(self, batch: Activations, encoded: Tensor, quantized: Tensor) -> Loss:
        n_tokens = batch.share.n_tokens
        if not batch.n_tokens:  # of a batch that is shared, others have the real tokens
            zero = encoded.new_zeros(())
            return Loss(zero, zero, zero if self.config.kl_weight > 0 else None, zero)
        fraction = batch.n_tokens / n_tokens
        decode = self.quantizer.decode_padded
        recon = decode(quantized, encoded=encoded, attended=batch.attended)
        squared_error = _squared_distance(recon, batch.target, batch)
        # In units of the variance the error is the FVU, so weights mean the same at every layer.
        unit = self.quantizer.target_variance
        if self.config.loss_unit == "raw":
            unit = torch.full_like(unit, recon.shape[-1])
        distance = _squared_distance(encoded, quantized.detach(), batch)
        distance = distance / (batch.n_tokens * encoded.shape[-1])
        total = float(self.config.recon_weight) * squared_error / (n_tokens * unit)
        total = total + float(self.quantizer.config.commitment_weight) * distance * fraction
        kl = None
        if self.config.kl_weight > 0:  # otherwise the layers above the target need not run
            kl = self._kl(batch, recon)
            total = total + float(self.config.kl_weight) * kl * fraction
            kl = kl.detach()
        return Loss(total, squared_error.detach(), kl, distance.detach())

    def _kl(self, batch: Activations, recon: Tensor) -> Float[Tensor, ""]:
        """KL(clean || spliced) of next-token distributions at real tokens, nats per token."""
        # Special tokens keep their target, as in a splice: the decoder never learned them.
        spliced = torch.where(batch.mask.unsqueeze(-1), recon, batch.target)
        if ends_plainly(self.host, self.target):
            of_each, kl = self._last_residual, self._kl_by_parts
        else:  # then the logits of the whole batch are needed
            of_each, kl = self._logits, _mean_kl
        with torch.no_grad():
            clean = of_each(batch.target, batch)
        return kl(clean, of_each(spliced, batch)).to(recon.device)

    def _kl_by_parts(self, clean: Tensor, spliced: Tensor) -> Tensor:
        on_cpu = clean.device.type == "cpu"
        n_logits = _LOGITS_ON_CPU if on_cpu else _LOGITS_ELSEWHERE
        rows_at_once = max(1, n_logits // self.host.cfg.d_vocab_out)
        with self.host.unembedding_often():
            return mean_kl_by_parts(clean, spliced, self.host.unembed, rows_at_once=rows_at_once)

    def _last_residual(self, value: Tensor, batch: Activations) -> Float[Tensor, "n d_model"]:
        """The residual stream after the last block at real tokens, with the target replaced."""
        residual = self.host.activations_with(
            self.target,
            value,
            batch.tokens,
            batch.attended,
            until=self.host.protocol.residual_after(self.host.n_layers - 1),
        )
        return batch.at_real_tokens(residual)

    def _logits(self, value: Tensor, batch: Activations) -> Float[Tensor, "n d_vocab"]:
        """The logits at real tokens, with the target replaced."""
        logits = self.host.logits_with(self.target, value, batch.tokens, batch.attended)
        return batch.at_real_tokens(logits)  # on the device of the last layer


def _squared_distance(
    one: Float[Tensor, "b pos d"], other: Float[Tensor, "b pos d"], batch: Activations
) -> Float[Tensor, ""]:
    """Summed over dimensions and real tokens."""
    # Not taken by an index, which would copy all of it, and once more for the gradient.
    of_tokens = (one - other).square().sum(-1)
    return torch.where(batch.mask, of_tokens, 0).sum()


def _mean_kl(clean_logits: Tensor, logits: Tensor) -> Tensor:
    return kl_divergence(clean_logits, logits).mean()
