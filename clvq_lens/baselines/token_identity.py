"""Token identity: a code for each of the most frequent tokens, whatever their context."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clvq_lens.baselines.task import Task
from clvq_lens.errors import EmptyCorpusError, HookNotFoundError
from clvq_lens.host.host import Host
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from clvq_lens.quantizer.initialization import Clusters

# Which of them carries the embedding of the token and nothing else differs between hosts.
_CANDIDATES = ("hook_embed", "embed.hook_embed", "embed.hook_out")


@torch.no_grad()
def token_identity(task: Task) -> CrossLayerQuantizer:
    """A quantizer that reads the embeddings of tokens, which is the source of its task."""
    host, like = task.host, task.like.config
    counts = count_tokens(task)
    types = counts.argsort(descending=True, stable=True)
    types = types[: min(int((counts > 0).sum()), like.n_codes)]
    embeddings = _embeddings(host, task.source, types)
    options: dict[str, Any] = {"n_codes": len(types), "top_k": min(like.top_k, len(types))}
    quantizer = task.quantizer(host.cfg.d_model, **options)
    vectors, sizes = embeddings.to(quantizer.device), counts[types].to(quantizer.device)
    quantizer.codebook.initialize_(Clusters(vectors, sizes, 0.0))
    # Most tokens have no distance to their code, so the spread of the codes is the unit.
    spread = (vectors - vectors.mean(0)).square().sum(1).mean()
    quantizer.codebook.mean_distance.copy_(spread.clamp_min(torch.finfo(torch.float32).tiny))
    task.reading(quantizer).finish()
    return quantizer


def token_embedding(host: Host) -> str:
    """The hook point whose activations depend on the token alone, not on its position.

    Raises:
        HookNotFoundError: If the model has none.
    """
    tokens = torch.tensor([[0, 1, 0]], device=host.device)
    for name in _CANDIDATES:
        if name in host.model.hook_dict:
            first, other, again = host.activations(tokens, tokens >= 0, [name])[name][0]
            if torch.equal(first, again) and not torch.equal(first, other):
                return name
    raise HookNotFoundError(
        f"No hook point of this model carries the embedding of the token alone: "
        f"{', '.join(_CANDIDATES)} are missing, or depend on the position too. Choose another "
        f"baseline, such as 'k-means'."
    )


def count_tokens(task: Task) -> Int[Tensor, " d_vocab"]:
    """How often each token is among the real ones of the training documents.

    Raises:
        EmptyCorpusError: If there is none.
    """
    fit, counts = task.fit(task.like), torch.zeros(task.host.cfg.d_vocab, dtype=torch.long)
    for batch in fit.tokens():
        counts += torch.bincount(batch.tokens[batch.mask], minlength=len(counts))
        if counts.sum() >= fit.budget:
            break
    if counts.sum() == 0:
        raise EmptyCorpusError(
            "The data hold no real token: only special tokens such as BOS, or padding. "
            "Pass texts with words in them."
        )
    return counts


def _embeddings(host: Host, name: str, types: Int[Tensor, " k"]) -> Float[Tensor, "k d_model"]:
    tokens = types.unsqueeze(1).to(host.device)  # each a sequence of its own
    chunks = tokens.split(host.positions_per_pass)
    found = [host.activations(part, part >= 0, [name])[name][:, 0].float() for part in chunks]
    return torch.cat(found)
