"""KL divergence between predictions of a model."""

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
    clean = clean_logits.float().log_softmax(-1)
    return (clean.exp() * (clean - logits.float().log_softmax(-1))).sum(-1)
