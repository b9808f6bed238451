"""Trains a predictive encoder: the target from the source, token by token."""

import copy
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from tqdm.auto import tqdm

from clvq_lens.config import FitConfig
from clvq_lens.data.activations import Activations
from clvq_lens.data.interrupt import deferred_interrupt
from clvq_lens.processes import ALONE, Processes
from clvq_lens.quantizer.encoders import PredictiveEncoder
from clvq_lens.stats.precision import best_float
from clvq_lens.training.checkpoint import State
from clvq_lens.training.loop import fuses, restore_optimizer_
from clvq_lens.training.phase_clock import Phase
from clvq_lens.training.schedule import BETAS, peak_learning_rate, schedule

_STEP_TOKENS = 512  # of a step; twice as many tokens, half as many steps, predict worse
_RATE = 2.0  # times that of a decoder: layer norms allow it


class EncoderTraining:
    """Trains the encoder until the tokens are spent or held-out error stops falling.

    The best weights on held-out documents are kept, those of the linear map among them.

    Args:
        encoder: Started, and trained in place.
        held_out: Held-out tokens; if there are none, the last weights are kept.
        config: How often to validate, when to stop, decay, warm-up and clipping.
        phase: Measures the time of a phase.
        n_tokens: Tokens to train on, repetitions counted.
        processes: Who shares every step.
    """

    def __init__(
        self,
        encoder: PredictiveEncoder,
        held_out: list[Activations],
        config: FitConfig,
        phase: Phase,
        *,
        n_tokens: int,
        processes: Processes = ALONE,
    ) -> None:
        self._encoder, self._config, self._budget = encoder, config, n_tokens
        self._processes, self._phase = processes, phase
        self._best = _BestWeights(encoder, held_out, processes)
        self._peak = _RATE * peak_learning_rate(config, encoder.linear.out_features)
        self._optimizer = torch.optim.AdamW(
            encoder.parameters(),
            lr=self._peak,
            betas=BETAS,
            weight_decay=config.weight_decay,
            fused=fuses(encoder.linear.weight.device),
        )
        self._n_tokens, self._n_validations = 0, 0

    @property
    def is_done(self) -> bool:
        """Whether the tokens are spent, or nothing improves any more."""
        return self._n_tokens >= self._budget or self._best.n_since >= self._config.patience

    def run(
        self, batches: Iterable[Activations], after_batch: Callable[[bool], None], *, progress: bool
    ) -> None:
        """Trains to the end, and puts the best weights back; also when Ctrl-C was pressed.

        Args:
            batches: Batches of single training tokens in random order, as many as are read.
            after_batch: Called between two batches, with whether Ctrl-C was pressed.
            progress: Whether to show a progress bar.
        """
        self._encoder.requires_grad_(True)
        bar = tqdm(
            total=self._budget,
            initial=self._n_tokens,
            desc="encoder",
            unit="tok",
            disable=not progress,
        )
        try:
            # A step is done as a whole or not at all, and by all processes or by none.
            with bar, deferred_interrupt() as pressed:
                for batch in batches if not self.is_done else ():
                    self._learn_from(batch)
                    bar.update(batch.share.n_tokens)
                    interrupted = self._processes.any(pressed())
                    after_batch(interrupted)
                    if interrupted:
                        self._best.offer()  # as if the tokens were spent
                        raise KeyboardInterrupt
                    if self.is_done:
                        break
        finally:
            self._best.restore_()
            self._encoder.requires_grad_(False)

    @torch.enable_grad()  # a fit may be called where gradients are switched off
    def _learn_from(self, batch: Activations) -> None:
        """Steps on the mean squared error, in units of the target's variance."""
        for group in self._optimizer.param_groups:
            done = self._n_tokens / self._budget
            group["lr"] = self._peak * schedule(done, self._config.warmup_fraction)
        source, target = batch.of_real_tokens("source"), batch.of_real_tokens("target")
        sizes, n_mine = self._step_sizes(batch)
        parameters = list(self._encoder.parameters())
        parts = zip(sizes, source.split(n_mine), target.split(n_mine), strict=True)
        for n_tokens, x, y in parts:
            self._optimizer.zero_grad(set_to_none=True)
            if len(x):  # of a step that is shared, others may have all tokens
                error = (self._encoder(x) - y) / self._encoder.target_units.scale
                (error.square().mean() * (len(x) / n_tokens)).backward()
            self._processes.sum_gradients_(parameters)
            torch.nn.utils.clip_grad_norm_(parameters, self._config.max_grad_norm)
            self._optimizer.step()
        self._n_tokens += batch.share.n_tokens
        due = self._budget / self._config.n_evaluations * (self._n_validations + 1)
        if self._n_tokens >= min(due, self._budget):
            self._n_validations += 1
            with self._phase("validation"):
                self._best.offer()

    def _step_sizes(self, batch: Activations) -> tuple[list[int], list[int]]:
        """How many real tokens of a batch each step takes: of all, and of this process's.

        Tokens of one process would make other steps than the same tokens in several processes, if
        each of them counted its own.
        """
        if not self._processes.shared:
            n_whole, rest = divmod(batch.n_tokens, _STEP_TOKENS)
            sizes = [_STEP_TOKENS] * n_whole + [rest] * (rest > 0)
            return sizes, sizes
        share = batch.share
        mask = self._processes.together(batch.mask.flatten(), share.n_rows)
        step_of_row = (mask.cumsum(0) - 1).div(_STEP_TOKENS, rounding_mode="floor")
        n_steps = -(-share.n_tokens // _STEP_TOKENS)
        sizes = torch.bincount(step_of_row[mask], minlength=n_steps)
        mine = torch.bincount(step_of_row[share.rows][batch.mask.flatten()], minlength=n_steps)
        return sizes.tolist(), mine.tolist()

    def state(self) -> State:
        """All that a step depends on, apart from the stream; between two batches."""
        return {
            "n_tokens": self._n_tokens,
            "n_validations": self._n_validations,
            "encoder": self._encoder.state_dict(),
            "optimizer": self._optimizer.state_dict()["state"],
            "best": self._best.state(),
        }

    def restore_(self, state: State) -> None:
        """Goes on where another training was."""
        self._n_tokens, self._n_validations = state["n_tokens"], state["n_validations"]
        self._encoder.load_state_dict(state["encoder"])
        restore_optimizer_(self._optimizer, state["optimizer"])
        self._best.restore_state_(state["best"])


class _BestWeights:
    """The weights that predict held-out tokens best, at first those of the linear map."""

    def __init__(
        self, encoder: PredictiveEncoder, held_out: list[Activations], processes: Processes
    ) -> None:
        self._encoder, self._processes = encoder, processes
        self._can_judge = bool(held_out)  # also where all of it is that of other processes
        self._rows: list[tuple[Tensor, Tensor]] = []
        for batch in held_out[processes.rows]:
            self._rows.append((batch.of_real_tokens("source"), batch.of_real_tokens("target")))
        self._weights = copy.deepcopy(encoder.state_dict())
        self._error = self._squared_error()
        self.n_since = 0
        """Validations since the last one that was better."""

    def offer(self) -> None:
        """Keeps the weights if they are the best, or if there is nothing to judge them by."""
        error = self._squared_error()
        self.n_since += 1
        if error < self._error or not self._can_judge:
            self._weights = copy.deepcopy(self._encoder.state_dict())
            self._error, self.n_since = error, 0

    def restore_(self) -> None:
        """Puts them back."""
        self._encoder.load_state_dict(self._weights)

    @torch.no_grad()
    def _squared_error(self) -> float:
        """Of all held-out tokens together; 0 if there are none."""
        device = self._encoder.linear.weight.device
        error = torch.zeros((), dtype=best_float(device), device=device)
        for x, y in self._rows:
            error += (self._encoder(x) - y).square().sum()
        return self._processes.sums(float(error))[0]

    def state(self) -> State:
        """The best weights and how good they are, for a checkpoint."""
        return {"error": self._error, "n_since": self.n_since, "weights": self._weights}

    def restore_state_(self, state: State) -> None:
        """Goes on with what another training had found."""
        self._error, self.n_since = state["error"], state["n_since"]
        self._weights = state["weights"]
