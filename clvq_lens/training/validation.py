"""What is measured during a fit: on held-out activations, and on the batches trained on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import torch
from jaxtyping import Int
from torch import Tensor

from clvq_lens.config import FitConfig
from clvq_lens.data.activations import Activations
from clvq_lens.processes import ALONE, Processes
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from clvq_lens.stats.metrics import perplexity_of_usage
from clvq_lens.training.checkpoint import State
from clvq_lens.training.history import Record
from clvq_lens.training.objective import Loss, Objective

_IMPROVEMENT = 1e-3  # relative, of the score: a smaller one does not keep a fit going


class HeldOutMeasures(TypedDict):
    """The fields of a `Record` that are measured on held-out documents."""

    held_out_fvu: float | None
    held_out_kl: float | None


class WindowMeasures(TypedDict):
    """The fields of a `Record` that are measured on the batches trained on."""

    fvu: float
    kl: float | None
    commitment: float
    perplexity: float
    n_dead_codes: int


@dataclass(frozen=True)
class LossSums:
    """Sums of the parts of the loss over real tokens.

    Attributes:
        squared_error: Sum of squared errors.
        commitment: Sum of squared distances to the code vector, per dimension.
        kl: Sum of KL(clean || spliced), nats; None unless asked for.
        total: The loss that is minimized.
    """

    squared_error: float
    commitment: float
    kl: float | None
    total: float

    @classmethod
    def of(
        cls, losses: Sequence[Loss], n_tokens: Sequence[int], processes: Processes
    ) -> "LossSums":
        """Of the shares of a batch that all processes have.

        Args:
            losses: Of the shares of this process.
            n_tokens: Real tokens of these.
            processes: Who has the others.
        """
        squared_error = commitment = kl = total = 0.0
        for loss, n in zip(losses, n_tokens, strict=True):
            squared_error += float(loss.squared_error)
            commitment += float(loss.commitment) * n  # the mean of a share, back to a sum
            kl += 0.0 if loss.kl is None else float(loss.kl) * n
            total += float(loss.total.detach())
        squared_error, commitment, kl, total = processes.sums(squared_error, commitment, kl, total)
        return cls(squared_error, commitment, None if losses[0].kl is None else kl, total)


class HeldOut:
    """Measures FVU and KL on held-out activations, which are kept in memory.

    Args:
        objective: Computes errors and KL.
        batches: The held-out activations; if there are none, nothing is measured.
        processes: Who shares the batches.
    """

    def __init__(
        self, objective: Objective, batches: list[Activations], processes: Processes = ALONE
    ) -> None:
        self._objective, self._batches, self._processes = objective, batches, processes
        if batches:
            target = torch.cat([batch.target[batch.mask] for batch in batches])
            self._n_tokens = len(target)
            self._total = float((target - target.mean(0)).square().sum())

    def measure(self, quantizer: CrossLayerQuantizer) -> HeldOutMeasures:
        """Held-out FVU and KL with nearest codes."""
        if not self._batches:
            return {"held_out_fvu": None, "held_out_kl": None}
        quantizer.eval()
        error = kl = 0.0
        for batch in self._batches[self._processes.rows]:
            loss = self._objective.evaluate(batch)
            error += float(loss.squared_error)
            if loss.kl is not None:
                kl += float(loss.kl) * batch.n_tokens  # the mean of a batch, back to a sum
        error, kl = self._processes.sums(error, kl)
        return {
            # A single held-out token has no variance.
            "held_out_fvu": error / max(self._total, 1e-30),
            "held_out_kl": kl / self._n_tokens if self._objective.config.kl_weight > 0 else None,
        }


class Window:
    """Sums over the training batches since the last record.

    Args:
        quantizer: The quantizer that is being fitted.
    """

    def __init__(self, quantizer: CrossLayerQuantizer) -> None:
        self._quantizer = quantizer
        self._clear()

    def _clear(self) -> None:
        self._usage = torch.zeros_like(self._quantizer.usage)
        self._error, self._kl, self._commitment = 0.0, 0.0, 0.0
        self._n_tokens, self._with_kl = 0, False

    def add(self, sums: LossSums, codes: Int[Tensor, " n"]) -> None:
        """Adds the loss and the codes of a training step."""
        self._n_tokens += len(codes)
        self._error += sums.squared_error
        self._commitment += sums.commitment
        if sums.kl is not None:
            self._kl += sums.kl
            self._with_kl = True
        self._usage += torch.bincount(codes, minlength=len(self._usage))

    @property
    def fvu(self) -> float:
        """FVU with sampled codes."""
        # The variance of the sample that started the codebook: one unit for the whole fit.
        return self._error / (self._n_tokens * float(self._quantizer.target_variance))

    def take(self) -> WindowMeasures:
        """The means so far; what comes later is added up anew."""
        measures: WindowMeasures = {
            "fvu": self.fvu,
            "kl": self._kl / self._n_tokens if self._with_kl else None,
            "commitment": self._commitment / self._n_tokens,
            "perplexity": perplexity_of_usage(self._usage),
            "n_dead_codes": int((self._usage == 0).sum()),
        }
        self._clear()
        return measures

    def state(self) -> State:
        """The sums, for a checkpoint."""
        return {
            "usage": self._usage,
            "error": self._error,
            "kl": self._kl,
            "commitment": self._commitment,
            "n_tokens": self._n_tokens,
            "with_kl": self._with_kl,
        }

    def restore_(self, state: State) -> None:
        """Puts the sums back."""
        self._usage = state["usage"].to(self._usage.device)
        self._error, self._kl = state["error"], state["kl"]
        self._commitment, self._n_tokens = state["commitment"], state["n_tokens"]
        self._with_kl = state["with_kl"]


class Best:
    """The best weights so far: a copy, because training goes on in the originals.

    Args:
        quantizer: The quantizer that is being fitted.
    """

    def __init__(self, quantizer: CrossLayerQuantizer) -> None:
        self._quantizer = quantizer
        self._score, self._step = math.inf, 0
        self._state: dict[str, Tensor] | None = None
        # Apart from the score: many tiny improvements are kept, but do not keep a fit going.
        self._to_beat = math.inf
        self.n_since = 0
        """Validations since the last one that was better by a thousandth."""

    def offer(self, record: Record, config: FitConfig) -> None:
        """Keeps the weights if they are the best on held-out documents, or the latest without."""
        score = -math.inf  # without held-out documents, the latest weights are the best
        if record.held_out_fvu is not None:
            score = config.recon_weight * record.held_out_fvu
            score += config.kl_weight * (record.held_out_kl or 0.0)
        if score < self._score or score == -math.inf:
            self._score, self._step = score, record.step
            self._state = clone_state(self._quantizer)
        if score < (1 - _IMPROVEMENT) * self._to_beat or score == -math.inf:
            self._to_beat, self.n_since = score, 0
        else:
            self.n_since += 1

    def restore_(self) -> int:
        """Puts the best weights back.

        Returns:
            The step of these weights; 0 if there was no validation, and the last weights stay.
        """
        if self._state is not None:
            self._quantizer.load_state_dict(self._state)
        return self._step

    def state(self) -> State:
        """The best weights and how good they are, for a checkpoint."""
        return {
            "score": self._score,
            "step": self._step,
            "to_beat": self._to_beat,
            "n_since": self.n_since,
            "weights": self._state or {},
        }

    def restore_state_(self, state: State) -> None:
        """Goes on with what another fit had found."""
        self._score, self._step = state["score"], state["step"]
        self._to_beat, self.n_since = state["to_beat"], state["n_since"]
        self._state = state["weights"] or None


def clone_state(quantizer: CrossLayerQuantizer) -> dict[str, Tensor]:
    """A copy of everything that a fit changes."""
    return {name: tensor.detach().clone() for name, tensor in quantizer.state_dict().items()}
