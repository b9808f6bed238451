"""Trains a predictive encoder: the target from the source, token by token."""

import copy
from collections.abc import Iterable

import torch
from torch import Tensor
from tqdm.auto import tqdm

from clvq_lens.config import FitConfig
from clvq_lens.data.activations import Activations
from clvq_lens.data.interrupt import deferred_interrupt
from clvq_lens.quantizer.encoders import PredictiveEncoder
from clvq_lens.training.schedule import BETAS, peak_learning_rate, schedule

_STEP_TOKENS = 512  # of a step; twice as many tokens, half as many steps, predict worse
_RATE = 2.0  # times that of a decoder: layer norms allow it


def learn_to_predict_(
    encoder: PredictiveEncoder,
    batches: Iterable[Activations],
    held_out: list[Activations],
    config: FitConfig,
    *,
    n_tokens: int,
    progress: bool,
) -> bool:
    """Trains the encoder until the tokens are spent or held-out error stops falling.

    The best weights on held-out documents are kept, those of the linear map among them.
    Ctrl-C ends the training as if the tokens were spent.

    Args:
        encoder: Started, and trained in place.
        batches: Batches of single training tokens in random order, as many as are read.
        held_out: Held-out tokens; if there are none, the last weights are kept.
        config: How often to validate, when to stop, decay, warm-up and clipping.
        n_tokens: Tokens to train on, repetitions counted.
        progress: Whether to show a progress bar.

    Returns:
        Whether Ctrl-C was pressed.
    """
    best = _BestWeights(encoder, held_out)
    interrupted = False
    encoder.requires_grad_(True)
    try:
        with tqdm(total=n_tokens, desc="encoder", unit="tok", disable=not progress) as bar:
            _learn(encoder, batches, best, config, n_tokens, bar)
    except KeyboardInterrupt:
        interrupted = True
    best.restore_()
    encoder.requires_grad_(False)
    return interrupted


class _BestWeights:
    """The weights that predict held-out tokens best, at first those of the linear map."""

    def __init__(self, encoder: PredictiveEncoder, held_out: list[Activations]) -> None:
        self._encoder = encoder
        self._rows = [(b.of_real_tokens("source"), b.of_real_tokens("target")) for b in held_out]
        self._weights = copy.deepcopy(encoder.state_dict())
        self._error = _squared_error(encoder, self._rows)
        self.n_since = 0
        """Validations since the last one that was better."""

    def offer(self) -> None:
        """Keeps the weights if they are the best, or if there is nothing to judge them by."""
        error = _squared_error(self._encoder, self._rows)
        self.n_since += 1
        if error < self._error or not self._rows:
            self._weights = copy.deepcopy(self._encoder.state_dict())
            self._error, self.n_since = error, 0

    def restore_(self) -> None:
        """Puts them back."""
        self._encoder.load_state_dict(self._weights)


def _learn(
    encoder: PredictiveEncoder,
    batches: Iterable[Activations],
    best: _BestWeights,
    config: FitConfig,
    n_tokens: int,
    bar: tqdm,
) -> None:
    """Steps until the tokens are spent, nothing improves, or Ctrl-C is pressed."""
    peak = _RATE * peak_learning_rate(config, encoder.linear.out_features)
    optimizer = torch.optim.AdamW(
        encoder.parameters(), lr=peak, betas=BETAS, weight_decay=config.weight_decay
    )
    per_validation = n_tokens / config.n_evaluations
    n_read, due = 0, per_validation
    for batch in batches:
        for group in optimizer.param_groups:
            group["lr"] = peak * schedule(n_read / n_tokens, config.warmup_fraction)
        with deferred_interrupt() as pressed:  # a step is done as a whole or not at all
            _learn_from(encoder, batch, optimizer, config.max_grad_norm)
        n_read += batch.n_tokens
        bar.update(batch.n_tokens)
        done = n_read >= n_tokens or pressed()
        if n_read >= due or done:
            due += per_validation
            best.offer()
        if pressed():
            raise KeyboardInterrupt
        if done or best.n_since >= config.patience:
            return


@torch.enable_grad()  # a fit may be called where gradients are switched off
def _learn_from(
    encoder: PredictiveEncoder,
    batch: Activations,
    optimizer: torch.optim.Optimizer,
    max_grad_norm: float,
) -> None:
    """Steps on the mean squared error, in units of the target's variance."""
    source, target = batch.of_real_tokens("source"), batch.of_real_tokens("target")
    parts = zip(source.split(_STEP_TOKENS), target.split(_STEP_TOKENS), strict=True)
    for x, y in parts:
        loss = ((encoder(x) - y) / encoder.target_units.scale).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(encoder.parameters(), max_grad_norm)
        optimizer.step()


@torch.no_grad()
def _squared_error(encoder: PredictiveEncoder, rows: list[tuple[Tensor, Tensor]]) -> float:
    """Of all held-out tokens together; 0 if there are none."""
    return sum((float((encoder(x) - y).square().sum()) for x, y in rows), 0.0)
