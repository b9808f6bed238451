"""Token identity: a code for each of the most frequent tokens, whatever their context."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clvq_lens.baselines.task import Task
from clvq_lens.data.tokens import require_real
from clvq_lens.errors import HookNotFoundError
from clvq_lens.host.attachment import Attachment
from clvq_lens.host.host import Host
from clvq_lens.quantizer.initialization import Clusters

# Which of these carries the embedding of the token and nothing else differs between hosts.
_CANDIDATES = ("hook_embed", "embed.hook_embed", "embed.hook_out")


@torch.no_grad()
def token_identity(task: Task) -> Attachment:
    """A quantizer that reads the embeddings of tokens, which are the source of its task."""
    host, like = task.host, task.like.quantizer.config
    counts = count_tokens(task)
    types = counts.argsort(descending=True, stable=True)  # of equally frequent ones, the lower id
    n_codes = min(int((counts > 0).sum()), like.n_codes)
    types = types[:n_codes]
    embeddings = _embeddings(host, task.source, types)
    top_k = min(like.resolved_top_k, n_codes)
    with task.attached(host.cfg.d_model, n_codes=n_codes, top_k=top_k) as attachment:
        codebook, device = attachment.quantizer.codebook, attachment.quantizer.device
        vectors, sizes = embeddings.to(device), counts[types].to(device)
        codebook.initialize_(Clusters(vectors, sizes, 0.0))
        # Most tokens have no distance to their code, so the spread of the codes is the unit.
        spread = (vectors - vectors.mean(0)).square().sum(1).mean()
        codebook.mean_distance.copy_(spread.clamp_min(torch.finfo(torch.float32).tiny))
        task.reading(attachment).finish()
    return attachment


def token_embedding(host: Host) -> str:
    """The hook point whose activations depend on the token alone, not on its position.

    Raises:
        HookNotFoundError: If the model has no such hook point.
    """
    # The same token twice: with position embeddings added, its activations would differ.
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
    """How often each token occurs among the real tokens of the training documents.

    Raises:
        EmptyCorpusError: If there is no real token.
    """
    data = task.training_data(task.like)
    counts = torch.zeros(task.host.cfg.d_vocab, dtype=torch.long)
    for batch in data.tokens():
        counts += torch.bincount(batch.tokens[batch.mask], minlength=len(counts))
        if counts.sum() >= data.n_tokens:
            break
    require_real(counts.sum())
    return counts


def _embeddings(host: Host, name: str, types: Int[Tensor, " k"]) -> Float[Tensor, "k d_model"]:
    tokens = types.unsqueeze(1).to(host.device)  # each a sequence of its own
    embeddings: list[Tensor] = []
    for chunk in tokens.split(host.positions_per_pass):
        activations = host.activations(chunk, chunk >= 0, [name])[name]
        embeddings.append(activations[:, 0].float())
    return torch.cat(embeddings)
