"""Gradients of a metric with respect to what codes stand for, in the running model."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from clvq_lens.errors import MetricError
from clvq_lens.interventions.counterfactuals import Counterfactuals
from clvq_lens.interventions.logit_metrics import LogitsFunction
from clvq_lens.quantizer.draft import Draft
from clvq_lens.readouts.integrated_gradients import average_gradient, gradient_of


@dataclass(frozen=True)
class PathGradients:
    """What the path from the mean code to the codes of the run gives.

    Attributes:
        integrated: Integrated gradients of each position.
        difference: The metric of the run less that with the mean code everywhere.
        average: The gradient averaged along the path.
    """

    integrated: Float[Tensor, "b pos"]
    difference: float
    average: Float[Tensor, "b pos d"]


class CodeGradients:
    """Gradients of a metric with respect to what codes stand for.

    A code stands for its code vector, for a decoder that reads sequences, and for the decoded
    code, for a decoder that works token by token: there the way through the decoder is exact.

    Args:
        runs: The run.
        metric: A function of logits to one number.
        name: Name of the metric, for the error.
    """

    def __init__(self, runs: Counterfactuals, metric: LogitsFunction, name: str) -> None:
        self.runs, self.metric, self.name = runs, metric, name
        # An open steering is added to both ends of the path, so it is left out of them.
        quantizer, draft = runs.quantizer, replace(runs.draft, steering=None)
        self.by_token = not quantizer.config.reads_sequences
        self.all_rows = torch.arange(len(draft.codes), device=draft.codes.device)
        mask = runs.mask.to(draft.codes.device)
        averaged = draft.with_mean(quantizer.shares @ quantizer.codebook.vectors, mask)
        # What each code stands for, what the run holds, and where the path starts.
        if self.by_token:
            with torch.no_grad():
                vectors = quantizer.codebook.vectors.unsqueeze(0)
                self.rows = quantizer.decode(vectors, encoded=vectors).squeeze(0)
                self.held, self.start = self._recon(draft), self._recon(averaged)
        else:
            self.rows = quantizer.codebook.vectors
            self.held, self.start = draft.vectors, averaged.vectors

    def of_run(self) -> Float[Tensor, "b pos d"]:
        """The gradient at the codes of the run: one forward and one backward pass."""
        return self._gradient(self._metric, self.held)

    def effects_of(self, gradient: Float[Tensor, "b pos d"]) -> Float[Tensor, "b pos k"]:
        """g . (e_k - e_c) at every position, for every code."""
        # As two products: the differences themselves would be [b, pos, n_codes, d].
        return gradient @ self.rows.T - (gradient * self.held).sum(-1, keepdim=True)

    def integrated(self, n_steps: int, *, progress: bool) -> PathGradients:
        """Integrated gradients of each position, by Gauss-Legendre quadrature."""
        average = average_gradient(
            lambda point: self._gradient(self._metric, point),
            self.start,
            self.held,
            n_steps=n_steps,
            progress=progress,
        )
        with torch.no_grad():
            difference = self._metric(self.held) - self._metric(self.start)
        integrated = (average * (self.held - self.start)).sum(-1)
        return PathGradients(integrated, float(difference), average)

    @torch.no_grad()
    def with_exact_decoder(
        self, replacements: Int[np.ndarray, "n 3"], *, progress: bool
    ) -> Float[np.ndarray, " n"]:
        """Effects of replacements, first-order in the model above the target alone.

        Args:
            replacements: Text, position and new code of each.
            progress: Whether to show a progress bar.
        """
        recon = self._recon(self.runs.draft)
        gradient = self._gradient(self._metric_of_recon, recon)
        # As many decodings at once as fill a pass of the model.
        size = max(1, self.runs.host.positions_per_pass // recon.shape[1])
        effects = []
        starts = range(0, len(replacements), size)
        for start in tqdm(starts, desc="decode", unit="batch", disable=not progress):
            texts, positions, codes = torch.tensor(replacements[start : start + size]).unbind(1)
            decoded = self.runs.reconstruction.from_codes(
                self.runs.recorded, self._replaced(texts, positions, codes), texts
            )
            moved = decoded - recon[texts]
            effects.append((gradient[texts] * moved).sum((1, 2)).cpu())
        return torch.cat(effects).double().numpy() if effects else np.zeros(0)

    def _replaced(self, texts: Tensor, positions: Tensor, codes: Tensor) -> Draft:
        """One text for each replacement, with another code at its position."""
        draft = self.runs.draft.take(texts)
        where = torch.zeros_like(draft.codes, dtype=torch.bool)
        where[torch.arange(len(texts)), positions] = True
        codes = codes.to(draft.codes).unsqueeze(1).expand_as(draft.codes)
        return draft.with_codes(codes, where, self.runs.quantizer.codebook)

    def _recon(self, draft: Draft) -> Float[Tensor, "b pos d_target"]:
        return self.runs.reconstruction.from_codes(self.runs.recorded, draft, self.all_rows)

    def _gradient(self, metric: Callable[[Tensor], Tensor], activations: Tensor) -> Tensor:
        with torch.enable_grad():
            # A leaf of its own: gradients end here, and what the run recorded stays as it is.
            activations = activations.detach().clone().requires_grad_()
            value = metric(activations)
            if not value.requires_grad:
                raise MetricError(
                    f"The metric {self.name!r} has no gradient. Return a tensor computed from the "
                    f"logits by differentiable operations, without .item(), float() or argmax."
                )
            return gradient_of(value, activations)

    def _metric(self, held: Tensor) -> Tensor:
        """The metric with other code vectors, or with other decoded codes."""
        draft = self.runs.draft
        if not self.by_token:
            return self._metric_of_recon(self._recon(replace(draft, vectors=held)))
        return self._metric_of_recon(held if draft.steering is None else held + draft.steering)

    def _metric_of_recon(self, recon: Tensor) -> Tensor:
        return self.metric(self.runs.outcome_from(recon, self.all_rows, self.runs.draft.named))
