"""The learning rate over a fit."""

import math

from clvq_lens.config import FitConfig

BETAS = (0.9, 0.98)
"""Of Adam, for decoders and encoders."""
_LEARNING_RATE = 0.05  # times the inverse square root of the width
_LAST_LEARNING_RATE = 0.05  # as a share of the peak


def schedule(done: float, warmup: float) -> float:
    """Factor of the learning rate: linear warm-up, then a half cosine down to a twentieth.

    Args:
        done: Fraction of the fit that is done; the last batch may go a little beyond 1.
        warmup: Fraction of the fit in which the factor rises.
    """
    if done < warmup:
        return max(done / warmup, 0.01)  # the first step would do nothing at zero
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, (done - warmup) / max(1 - warmup, 1e-9))))
    return _LAST_LEARNING_RATE + (1 - _LAST_LEARNING_RATE) * cosine


def peak_learning_rate(config: FitConfig, width: int) -> float:
    """The learning rate that was asked for, or one that falls with the width of the output.

    A step of Adam moves every weight by about the learning rate, so the outputs of a wider layer
    move further.
    """
    return config.learning_rate or _LEARNING_RATE / math.sqrt(width)
