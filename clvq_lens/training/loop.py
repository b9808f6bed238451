"""The training loop: gradient steps of encoder and decoder, EMA steps of the codebook."""

import time
from collections.abc import Callable
from dataclasses import asdict

import torch
from jaxtyping import Int, Shaped
from torch import Tensor, nn
from tqdm.auto import tqdm

from clvq_lens.config import FitConfig
from clvq_lens.data.activations import Activations
from clvq_lens.data.forecast import Forecast
from clvq_lens.data.interrupt import deferred_interrupt
from clvq_lens.data.stream import ShuffledStream
from clvq_lens.processes import ALONE, Processes
from clvq_lens.quantizer.codebook import Assignment
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from clvq_lens.quantizer.decoders import TableDecoder
from clvq_lens.training.checkpoint import State
from clvq_lens.training.dropout import seed_dropout_
from clvq_lens.training.history import History, Record
from clvq_lens.training.objective import Objective, Step
from clvq_lens.training.phase_clock import Phase
from clvq_lens.training.schedule import BETAS, peak_learning_rate, schedule
from clvq_lens.training.validation import Best, HeldOut, Window

_SHOWN_EVERY_S = 2.0  # to show the FVU it has to be waited for


class Training:
    """Trains a quantizer whose codebook has been started.

    Args:
        objective: Computes the loss of the quantizer, which is trained in place.
        config: Options of the fit.
        history: Receives a record of every validation.
        held_out: Measures held-out documents.
        report: Called with every record.
        phase: Measures the time of a phase.
        budget: Tokens to train on, repetitions counted.
        generator: Draws codes.
        learns_codes: Whether encoder and codebook are trained too; else the decoder alone is.
        processes: Who shares every step.
    """

    def __init__(
        self,
        objective: Objective,
        config: FitConfig,
        history: History,
        held_out: HeldOut,
        report: Callable[[Record], None],
        phase: Phase,
        *,
        budget: int,
        generator: torch.Generator,
        learns_codes: bool,
        processes: Processes = ALONE,
    ) -> None:
        self.quantizer: CrossLayerQuantizer = objective.quantizer
        self.objective, self.config, self.history = objective, config, history
        self.budget, self.generator, self.learns_codes = budget, generator, learns_codes
        self.best = Best(self.quantizer)
        self._processes = processes
        self._held_out, self._window = held_out, Window(self.quantizer, processes)
        self._report, self._phase = report, phase
        self._optimizer = make_optimizer(self.quantizer, config)
        self._n_tokens = self._n_steps = self._first_epoch = 0
        self._started_at = time.monotonic()

    @property
    def learns(self) -> bool:
        """Whether anything is learned by gradients."""
        return not isinstance(self.quantizer.decoder, TableDecoder)

    @property
    def is_done(self) -> bool:
        """Whether the tokens are spent, or nothing improves any more."""
        return self._n_tokens >= self.budget or self.best.n_since >= self.config.patience

    def run(
        self, stream: ShuffledStream, after_step: Callable[[bool], None], *, progress: bool
    ) -> None:
        """Steps over the stream until the tokens are spent or nothing improves any more.

        Args:
            stream: Batches.
            after_step: Called between two steps, with whether Ctrl-C was pressed.
            progress: Whether to show a progress bar.
        """
        bar = tqdm(
            total=self.budget, initial=self._n_tokens, desc="fit", unit="tok", disable=not progress
        )
        shown_at = time.monotonic()
        forecast = Forecast("Training on", done=self._n_tokens, silent=not progress)
        # A step is done as a whole or not at all, and by all processes or by none.
        with bar, deferred_interrupt() as pressed:
            for batch in stream if not self.is_done else ():
                self._step(batch, stream)
                bar.update(batch.share.n_tokens)
                forecast.tell(self._n_tokens, self.budget)
                is_due = self._window.is_empty or time.monotonic() - shown_at >= _SHOWN_EVERY_S
                if progress and is_due:
                    shown_at = time.monotonic()
                    bar.set_postfix(fvu=f"{self._fvu:.3f}", refresh=False)
                interrupted = self._processes.any(pressed())
                after_step(interrupted)
                if interrupted:
                    self._window.require_finite()  # before these weights are kept
                    raise KeyboardInterrupt
                if self.is_done:
                    break
        if self._n_tokens < self.budget and self.is_done:
            self.history.stop = "early"

    @property
    def _fvu(self) -> float:
        """That of the last record right after it, and then of the batches since."""
        return self.history.records[-1].fvu if self._window.is_empty else self._window.fvu

    def _step(self, batch: Activations, stream: ShuffledStream) -> None:
        """A step, and a validation if it is time for one."""
        if not self._n_steps:
            self._first_epoch = stream.epoch
        rate = self._set_learning_rate()
        self._window.count(self.train_step(batch))
        self._n_steps += 1
        self._n_tokens += batch.share.n_tokens
        # By tokens and not by steps: batches of sequences hold more or fewer of them.
        due = self.budget / self.config.n_evaluations * (len(self.history.records) + 1)
        if self._n_tokens >= min(due, self.budget):
            with self._phase("validation"):
                self._validate(rate, stream.epoch - self._first_epoch)

    def _validate(self, rate: float, epoch: int) -> None:
        record = Record(
            step=self._n_steps,
            n_tokens=self._n_tokens,
            epoch=epoch,
            wall_s=time.monotonic() - self._started_at,
            learning_rate=rate,
            **self._window.take(),
            **self._held_out.measure(self.quantizer),
        )
        self.history.records.append(record)
        self.best.offer(record, self.config)
        # Before the checkpoint of this step: a fit that is killed between the two tells it twice,
        # and the other way round it would never be told.
        self._report(record)

    def train_step(self, batch: Activations) -> Int[Tensor, " n"]:
        """One gradient step of encoder and decoder, and one EMA step of the codebook.

        Nothing in it waits for the device: what it lost is added up there.

        Returns:
            The codes of all real tokens of the batch.
        """
        self.quantizer.train()
        if self.quantizer.config.decoder_dropout:
            seed = self.config.seed, self._n_steps, self._processes.rank
            seed_dropout_(self.quantizer.device, *seed)
        parameters = [p for p in self.quantizer.parameters() if p.requires_grad]
        self._optimizer.zero_grad(set_to_none=True)
        clocks = self.objective.clocks(batch, self.generator) if self.objective.samples else None
        parts = batch.split(self.config.accumulation_steps)
        steps: list[Step] = []
        for part in parts:
            with torch.set_grad_enabled(self.learns):
                step = self.objective.training_step(part, clocks)
            if self.learns and part.n_tokens:
                step.loss.total.backward(inputs=parameters)  # the model keeps its own gradients
            steps.append(step)
        self._window.add([step.loss for step in steps], [part.n_tokens for part in parts])
        if self.learns:
            self._processes.sum_gradients_(parameters)
            torch.nn.utils.clip_grad_norm_(parameters, self.config.max_grad_norm)
            self._optimizer.step()
        codes = self._update_(batch, steps)
        self.quantizer.eval()
        return codes

    def _update_(self, batch: Activations, steps: list[Step]) -> Int[Tensor, " n"]:
        """Moves what follows running means, by all real tokens of the batch.

        Returns:
            The codes of these tokens.
        """
        codes = self._of_real_tokens(batch, [step.codes for step in steps])
        decoder = self.quantizer.decoder
        if isinstance(decoder, TableDecoder):
            target = self._of_real_tokens(batch, [batch.target])
            decoder.update_(codes, target, decay=self.quantizer.config.ema_decay)
        if self.learns_codes:
            encoded = self._of_real_tokens(batch, [step.encoded for step in steps])
            nearest = self._of_real_tokens(batch, [step.nearest for step in steps])
            assignment = Assignment(codes, nearest)
            self.quantizer.codebook.update_(encoded, assignment, generator=self.generator)
        return codes

    def _of_real_tokens(
        self, batch: Activations, parts: list[Shaped[Tensor, "_ pos *d"]]
    ) -> Shaped[Tensor, "n *d"]:
        """What belongs to the real tokens of a whole batch, from the parts of all processes."""
        if not self._processes.shared:
            return batch.at_real_tokens(self._whole(batch, parts))
        return self._whole(batch, parts)[self._whole(batch, [batch.mask])]

    def _whole(
        self, batch: Activations, parts: list[Shaped[Tensor, "_ pos *d"]]
    ) -> Shaped[Tensor, "b pos *d"]:
        """The rows of a whole batch, from the parts of this process and those of others."""
        mine = parts[0]
        if len(parts) > 1:
            mine = mine.new_empty(len(batch.mask), *mine.shape[1:])
            for first, part in enumerate(parts):
                mine[first :: len(parts)] = part
        return self._processes.together(mine, batch.share.n_rows)

    def _set_learning_rate(self) -> float:
        done = self._n_tokens / self.budget
        rate = peak_learning_rate(self.config, self.quantizer.d_target)
        rate *= schedule(done, self.config.warmup_fraction)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        return rate

    # ---- checkpoints ---------------------------------------------------------------------------

    def state(self) -> State:
        """All that a step depends on, apart from the stream; between two steps."""
        self._window.require_finite()
        return {
            "n_tokens": self._n_tokens,
            "n_steps": self._n_steps,
            "first_epoch": self._first_epoch,
            "wall_s": time.monotonic() - self._started_at,
            "records": [asdict(record) for record in self.history.records],
            "quantizer": self.quantizer.state_dict(),
            "optimizer": self._optimizer.state_dict()["state"],
            "best": self.best.state(),
            "window": self._window.state(),
        }

    def restore_(self, state: State) -> None:
        """Goes on where another training was."""
        self._n_tokens, self._n_steps = state["n_tokens"], state["n_steps"]
        self._first_epoch = state["first_epoch"]
        self._started_at = time.monotonic() - state["wall_s"]
        self.history.records[:] = [Record(**record) for record in state["records"]]
        self.quantizer.load_state_dict(state["quantizer"])
        restore_optimizer_(self._optimizer, state["optimizer"])
        self.best.restore_state_(state["best"])
        self._window.restore_(state["window"])


def restore_optimizer_(optimizer: torch.optim.Optimizer, state: State) -> None:
    """Puts the running means of an optimizer back, as a checkpoint kept them."""
    groups = optimizer.state_dict()["param_groups"]
    by_index = {int(index): values for index, values in state.items()}
    optimizer.load_state_dict({"state": by_index, "param_groups": groups})


def make_optimizer(quantizer: CrossLayerQuantizer, config: FitConfig) -> torch.optim.AdamW:
    """AdamW; only matrices of the decoder decay, since the encoder starts at the identity."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for parameter in quantizer.decoder.parameters():
        if parameter.ndim > 1:
            matrices.append(parameter)
        else:  # biases, and scales of a layer norm: decay would switch the layer off
            others.append(parameter)
    others += quantizer.encoder.parameters()  # without gradients, those of a frozen one stay
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    peak = peak_learning_rate(config, quantizer.d_target)
    return torch.optim.AdamW(groups, lr=peak, betas=BETAS, fused=fuses(quantizer.device))


def fuses(device: torch.device) -> bool:
    """Whether a device has AdamW in one piece, which reads and writes the weights once."""
    return device.type in ("cpu", "cuda")
