"""What is measured during a fit: on held-out activations, and on the batches trained on."""

import math
from collections.abc import Sequence
from typing import TypedDict

import torch
from jaxtyping import Int
from torch import Tensor

from clvq_lens.config import FitConfig
from clvq_lens.data.activations import Activations
from clvq_lens.errors import NonFiniteError
from clvq_lens.processes import ALONE, Processes
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from clvq_lens.stats.metrics import perplexity_of_usage
from clvq_lens.stats.precision import best_float
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
    n_revived: int


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
            target = torch.cat([batch.of_real_tokens("target") for batch in batches])
            self._n_tokens = len(target)
            self._total = float((target - target.mean(0)).square().sum())

    def measure(self, quantizer: CrossLayerQuantizer) -> HeldOutMeasures:
        """Held-out FVU and KL with nearest codes."""
        if not self._batches:
            return {"held_out_fvu": None, "held_out_kl": None}
        quantizer.eval()
        sums = torch.zeros(2, dtype=best_float(quantizer.device), device=quantizer.device)
        for batch in self._batches[self._processes.rows]:
            loss = self._objective.evaluate(batch)
            kl = 0 * loss.total if loss.kl is None else loss.kl
            # The mean of a batch, back to a sum.
            sums += torch.stack([loss.squared_error, kl * batch.n_tokens])
        error, kl = self._processes.sums(*sums.tolist())
        return {
            # A single held-out token has no variance.
            "held_out_fvu": error / max(self._total, 1e-30),
            "held_out_kl": kl / self._n_tokens if self._objective.config.kl_weight > 0 else None,
        }


class Window:
    """Sums over the training batches since the last record; nothing waits for them in between.

    Args:
        quantizer: The quantizer that is being fitted.
        processes: Who shares the batches.
    """

    def __init__(self, quantizer: CrossLayerQuantizer, processes: Processes = ALONE) -> None:
        self._quantizer, self._processes = quantizer, processes
        self._clear()

    def _clear(self) -> None:
        device = self._quantizer.device
        # Squared error, squared distance to the code vector, KL and loss.
        self._sums = torch.zeros(4, dtype=best_float(device), device=device)
        self._usage = torch.zeros_like(self._quantizer.usage)
        self._n_tokens, self._with_kl = 0, False

    def add(self, losses: Sequence[Loss], n_tokens: Sequence[int]) -> None:
        """Adds what a training step lost.

        Args:
            losses: Of the parts of the step that this process computes.
            n_tokens: Real tokens of each.
        """
        sums = torch.zeros_like(self._sums)
        for loss, n in zip(losses, n_tokens, strict=True):
            total = loss.total.detach()
            self._with_kl = loss.kl is not None
            kl = 0 * total if loss.kl is None else loss.kl
            # The means of a part, back to sums.
            sums += torch.stack([loss.squared_error, loss.commitment * n, kl * n, total])
        # Now and not with the record: a checkpoint of one process is that of all.
        self._processes.sum_([sums])
        self._sums += sums

    def count(self, codes: Int[Tensor, " n"]) -> None:
        """Counts the codes of all real tokens of a step."""
        self._n_tokens += len(codes)
        self._usage.index_add_(0, codes, torch.ones_like(codes))

    @property
    def is_empty(self) -> bool:
        """Whether there was no token since the last record."""
        return self._n_tokens == 0

    @property
    def fvu(self) -> float:
        """FVU with sampled codes so far."""
        (error, _, _, variance, _), _ = self._read()
        return error / (self._n_tokens * variance)

    def take(self) -> WindowMeasures:
        """The means so far; what comes later is added up anew.

        Raises:
            NonFiniteError: If the loss was NaN or infinite since the last record.
        """
        (error, commitment, kl, variance, n_revived), usage = self._read()
        measures: WindowMeasures = {
            "fvu": error / (self._n_tokens * variance),
            "kl": kl / self._n_tokens if self._with_kl else None,
            "commitment": commitment / self._n_tokens,
            "perplexity": perplexity_of_usage(usage),
            "n_dead_codes": int((usage == 0).sum()),
            "n_revived": round(n_revived),
        }
        self._clear()
        return measures

    def require_finite(self) -> None:
        """Raises `NonFiniteError` if the loss was NaN or infinite since the last record.

        Then the weights are spoiled too, and nobody may keep them.
        """
        self._read()

    def _read(self) -> tuple[list[float], Int[Tensor, " k"]]:
        """The sums, the variance of the target and how many codes were revived; and the usage."""
        sums, quantizer = self._sums, self._quantizer
        # The variance is that of the sample that started the codebook: one unit for all the fit.
        others = torch.stack([quantizer.target_variance.to(sums), quantizer.codebook.n_revived])
        # All at once: every number that is read alone has to be waited for.
        numbers = torch.cat([sums, others, self._usage]).cpu()
        error, commitment, kl, total, variance, n_revived = numbers[:6].tolist()
        if not math.isfinite(total):
            raise NonFiniteError(
                f"The loss became {total:g} within the last {self._n_tokens} tokens. Pass a "
                f"smaller learning_rate, or check the activations' scale."
            )
        return [error, commitment, kl, variance, n_revived], numbers[6:].long()

    def state(self) -> State:
        """The sums, for a checkpoint."""
        return {
            "sums": self._sums,
            "usage": self._usage,
            "n_tokens": self._n_tokens,
            "with_kl": self._with_kl,
        }

    def restore_(self, state: State) -> None:
        """Puts the sums back."""
        self._sums = state["sums"].to(self._sums)
        self._usage = state["usage"].to(self._usage)
        self._n_tokens, self._with_kl = state["n_tokens"], state["with_kl"]


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
