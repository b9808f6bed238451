"""KL divergence between predictions of a model."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def kl_divergence(
    clean_logits: Float[Tensor, "*n d_vocab"], logits: Float[Tensor, "*n d_vocab"]
) -> Float[Tensor, "*n"]:
    """KL(clean || edited) = sum p_clean (log p_clean - log p_edited), in nats per token.

    Args:
        clean_logits: Logits of the model as it is.
        logits: Logits of the edited model.

    Returns:
        Values from 0, where both distributions agree (the baseline), without an upper limit.

    Example:
        >>> even, sure = torch.tensor([0.0, 0.0]), torch.tensor([100.0, 0.0])
        >>> round(kl_divergence(sure, even).item(), 4)  # log 2
        0.6931
    """
    # In float32: probabilities in half precision have three digits, and a KL may have fewer.
    clean, edited = clean_logits.float().log_softmax(-1), logits.float().log_softmax(-1)
    return kl_of_log_probabilities(clean, edited)


def kl_of_log_probabilities(
    clean: Float[Tensor, "*n d_vocab"], edited: Float[Tensor, "*n d_vocab"]
) -> Float[Tensor, "*n"]:
    """The same from log-probabilities, where they are needed for something else, too.

    Args:
        clean: Log-probabilities of the model as it is.
        edited: Log-probabilities of the edited model.
    """
    return (clean.exp() * (clean - edited)).sum(-1)


def mean_kl_by_parts(
    clean: Float[Tensor, "n d"],
    edited: Float[Tensor, "n d"],
    unembed: Callable[[Tensor], Tensor],
    *,
    rows_at_once: int,
) -> Float[Tensor, ""]:
    """Mean KL(clean || edited) of the logits of some vectors, a few rows at a time.

    A vocabulary may be thirty times as wide as the vectors, so the logits of all rows may not fit
    in memory. Here those of one part are held at a time, in the backward pass too: the gradient
    is computed together with the value, and what is kept of it is as wide as the vectors.

    Args:
        clean: Vectors of the model as it is; no gradient flows to them.
        edited: Vectors of the edited model.
        unembed: Gives the logits of some rows, each from its own vector.
        rows_at_once: Rows of a part.

    Returns:
        The mean over rows of what `kl_divergence` gives, in nats.
    """
    return _MeanKL.apply(edited, clean, unembed, rows_at_once)  # type: ignore[return-value]


class _MeanKL(torch.autograd.Function):
    """Forward: the mean KL, and its gradient for the backward pass."""

    @staticmethod
    def forward(ctx: Any, edited: Tensor, clean: Tensor, unembed: Any, rows_at_once: int) -> Tensor:
        with_gradient = ctx.needs_input_grad[0]
        gradients = torch.empty_like(edited) if with_gradient else None
        total = edited.new_zeros((), dtype=torch.float32)
        for start in range(0, len(edited), rows_at_once):
            rows = slice(start, start + rows_at_once)
            clean_logits = unembed(clean[rows])
            vectors = edited[rows].detach().requires_grad_(with_gradient)
            with torch.set_grad_enabled(with_gradient):
                kl = kl_divergence(clean_logits, unembed(vectors)).sum()
            if gradients is not None:
                (gradients[rows],) = torch.autograd.grad(kl, vectors)
            total += kl.detach()
        if gradients is not None:
            ctx.save_for_backward(gradients.div_(len(edited)))
        return total / len(edited)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (gradients,) = ctx.saved_tensors
        return grads[0] * gradients, None, None, None
