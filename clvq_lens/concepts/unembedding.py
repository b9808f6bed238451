"""What vectors say about the next token, read straight through the unembedding."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from clvq_lens.concepts.concept import TokenLogit, Unembedded
from clvq_lens.host.host import Host

_TOP = 10  # promoted tokens named for each vector
_VECTORS_AT_ONCE = 64  # whose logits over the whole vocabulary are in memory at a time


def through_unembedding(
    host: Host, vectors: Float[Tensor, "n d_model"], shares: Float[Tensor, " n"]
) -> Iterator[Unembedded]:
    """What each vector says about the next token, beyond what all of them say on average.

    Args:
        host: The model.
        vectors: Vectors of the residual stream, such as code vectors.
        shares: The weight of each vector in that average; they sum to 1.
    """
    ids = torch.arange(host.cfg.d_vocab_out)
    if host.outputs_tokens:
        # A model is seldom trained to predict special tokens. Other outputs all count.
        ids = ids[~torch.isin(ids, host.vocabulary.unwritten)]

    @torch.no_grad()
    def logits_of(some_vectors: Tensor) -> Tensor:
        logits = host.unembed(some_vectors)[:, ids]
        # The level of logits is arbitrary: the softmax does not depend on it.
        return logits - logits.mean(1, keepdim=True)

    # Two passes, one for the average and one for what is beyond it: the logits of all vectors
    # together may not fit in memory.
    batches = vectors.split(_VECTORS_AT_ONCE)
    average: Tensor | float = 0.0
    for batch, weights in zip(batches, shares.split(_VECTORS_AT_ONCE), strict=True):
        average = average + weights @ logits_of(batch)
    for batch in batches:
        above = logits_of(batch) - average
        n_named = min(_TOP, above.shape[1])
        high = above.topk(n_named, dim=1)
        low = above.topk(n_named, dim=1, largest=False)
        for row in range(len(batch)):
            yield Unembedded(
                promoted=_token_logits(host, ids[high.indices[row].cpu()], high.values[row]),
                suppressed=_token_logits(host, ids[low.indices[row].cpu()], low.values[row]),
            )


def _token_logits(host: Host, ids: Tensor, logits: Tensor) -> tuple[TokenLogit, ...]:
    return tuple(map(TokenLogit, host.vocabulary.output_names(ids), logits.tolist()))
