"""Trains a predictive encoder: the target from the source, token by token."""

import copy
import math
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from clvq_lens.data.activations import Activations
from clvq_lens.quantizer.encoders import PredictiveEncoder
from clvq_lens.training.schedule import schedule

_LEARNING_RATE = 2e-3
_WEIGHT_DECAY = 0.01
_WARMUP = 0.05
_N_EVALUATIONS = 20
_PATIENCE = 4


def learn_to_predict_(
    encoder: PredictiveEncoder,
    batches: Iterable[Activations],
    held_out: list[Activations],
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
        n_tokens: Tokens to train on, repetitions counted.
        progress: Whether to show a progress bar.
    """
    rows = [(b.of_real_tokens("source"), b.of_real_tokens("target")) for b in held_out]
    optimizer = torch.optim.AdamW(
        encoder.parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY
    )
    best, best_error = copy.deepcopy(encoder.state_dict()), _error(encoder, rows)
    n_read, n_since, due = 0, 0, n_tokens / _N_EVALUATIONS
    encoder.requires_grad_(True)
    with tqdm(total=n_tokens, desc="encoder", unit="tok", disable=not progress) as bar:
        for batch in batches:
            for group in optimizer.param_groups:
                group["lr"] = _LEARNING_RATE * schedule(n_read / n_tokens, _WARMUP)
            x, y = batch.of_real_tokens("source"), batch.of_real_tokens("target")
            loss = _loss(encoder, x, y)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
            optimizer.step()
            n_read += batch.n_tokens
            bar.update(batch.n_tokens)
            done = n_read >= n_tokens
            if n_read >= due or done:
                due += n_tokens / _N_EVALUATIONS
                error = _error(encoder, rows) if rows else -math.inf
                bar.set_postfix(error=f"{error:.4f}", refresh=False)
                if error < best_error or not rows:
                    best, best_error, n_since = copy.deepcopy(encoder.state_dict()), error, 0
                else:
                    n_since += 1
            if done or n_since >= _PATIENCE:
                break
    encoder.load_state_dict(best)
    encoder.requires_grad_(False)


def _loss(encoder: PredictiveEncoder, x: Tensor, y: Tensor) -> Float[Tensor, ""]:
    """Mean squared error in units of the target's variance."""
    return ((encoder(x) - y) / encoder.target_units.scale).square().mean()


@torch.no_grad()
def _error(encoder: PredictiveEncoder, rows: list[tuple[Tensor, Tensor]]) -> float:
    if not rows:
        return math.inf
    total = sum(float((encoder(x) - y).square().sum()) for x, y in rows)
    y = torch.cat([y for _, y in rows])
    return total / max(float((y - y.mean(0)).square().sum()), 1e-30)
