"""Trains a predictive encoder: the target from the source, token by token."""

import copy
from collections.abc import Iterable

import torch
from torch import Tensor
from tqdm.auto import tqdm

from clvq_lens.config import FitConfig
from clvq_lens.data.activations import Activations
from clvq_lens.quantizer.encoders import PredictiveEncoder
from clvq_lens.training.schedule import peak_learning_rate, schedule

_STEP_TOKENS = 1_024  # of a step; twice as many tokens, half as many steps, predict worse


def learn_to_predict_(
    encoder: PredictiveEncoder,
    batches: Iterable[Activations],
    held_out: list[Activations],
    config: FitConfig,
    *,
    n_tokens: int,
    progress: bool,
) -> None:
    """Trains the encoder until the tokens are spent or held-out error stops falling.

    The best weights on held-out documents are kept, those of the linear map among them.

    Args:
        encoder: Started, and trained in place.
        batches: Batches of training tokens, as many as are read.
        held_out: Held-out tokens; if there are none, the last weights are kept.
        config: How often to validate, when to stop, decay, warm-up and clipping.
        n_tokens: Tokens to train on, repetitions counted.
        progress: Whether to show a progress bar.
    """
    rows = [(b.of_real_tokens("source"), b.of_real_tokens("target")) for b in held_out]
    peak = peak_learning_rate(config, encoder.linear.out_features)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=peak, weight_decay=config.weight_decay)
    best, best_error = copy.deepcopy(encoder.state_dict()), _squared_error(encoder, rows)
    per_validation = n_tokens / config.n_evaluations
    n_read, n_since, due = 0, 0, per_validation
    encoder.requires_grad_(True)
    with tqdm(total=n_tokens, desc="encoder", unit="tok", disable=not progress) as bar:
        for batch in batches:
            for group in optimizer.param_groups:
                group["lr"] = peak * schedule(n_read / n_tokens, config.warmup_fraction)
            _learn_from(encoder, batch, optimizer, config.max_grad_norm)
            n_read += batch.n_tokens
            bar.update(batch.n_tokens)
            done = n_read >= n_tokens
            if n_read >= due or done:
                due += per_validation
                error = _squared_error(encoder, rows)
                n_since += 1
                if error < best_error or not rows:
                    best, best_error, n_since = copy.deepcopy(encoder.state_dict()), error, 0
            if done or n_since >= config.patience:
                break
    encoder.load_state_dict(best)
    encoder.requires_grad_(False)


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
