"""Top-k sparse autoencoders and transcoders: dictionaries of features, trained by gradients."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from tqdm.auto import tqdm

from clvq_lens.training.schedule import schedule

_LEARNING_RATE = 2e-3
_WARMUP = 0.05
_DEAD_WEIGHT = 1 / 32  # weight of the loss of dead features (arXiv 2406.04093)
_DEAD_AT_ONCE = 2  # dead features that explain the error of a token, for each active one

Pairs = Iterator[tuple[Float[Tensor, "n d_in"], Float[Tensor, "n d_out"]]]


class SparseFeatures(nn.Module):
    """y = b + sum of the most active features' activations times their decoder rows.

    A feature's activation is w (x - c) + b, or zero if it is negative or not among the ``n_active``
    largest. Decoder rows have length one, so activations of features can be compared.

    Args:
        x: Some inputs, of order one; each feature starts at one of them.
        y: The outputs that belong to these inputs.
        n_features: Number of features.
        n_active: Features active in a token.
        learns_encoder: Whether the encoder starts at inputs and is trained; else it is random and
            stays so, and only decoder and output bias are trained.
        generator: Chooses among the inputs, or draws the encoder.
    """

    def __init__(
        self,
        x: Float[Tensor, "n d_in"],
        y: Float[Tensor, "n d_out"],
        n_features: int,
        *,
        n_active: int,
        learns_encoder: bool = True,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.n_active = min(n_active, n_features)
        rows = torch.randperm(len(x), generator=generator, device=x.device)[:n_features]
        center = x.mean(0)
        directions = x[rows] - center
        if not learns_encoder:
            directions = torch.randn(directions.shape, generator=generator, device=x.device)
        self.center = nn.Parameter(center, requires_grad=learns_encoder)
        self.encoder = nn.Parameter(F.normalize(directions, dim=1), requires_grad=learns_encoder)
        self.encoder_bias = nn.Parameter(x.new_zeros(n_features), requires_grad=learns_encoder)
        self.bias = nn.Parameter(y.mean(0))
        self.decoder = nn.Parameter(F.normalize(y[rows] - self.bias.detach(), dim=1))

    def preactivations(self, x: Float[Tensor, "n d_in"]) -> Float[Tensor, "n k"]:
        """Activations of all features, before the largest are chosen."""
        return F.linear(x - self.center, self.encoder, self.encoder_bias)

    def forward(self, x: Float[Tensor, "n d_in"]) -> Float[Tensor, "n d_out"]:
        """The reconstruction of y."""
        return self.bias + largest(self.preactivations(x), self.n_active) @ self.decoder

    @torch.no_grad()
    def normalize_(self) -> None:
        """Gives decoder rows the length one again."""
        self.decoder.copy_(F.normalize(self.decoder, dim=1))


def largest(values: Float[Tensor, "n k"], n: int) -> Float[Tensor, "n k"]:
    """The n largest values of each row, if positive; zero elsewhere."""
    top = values.topk(n, dim=1)
    return torch.zeros_like(values).scatter(1, top.indices, top.values.relu())


def train_(
    features: SparseFeatures, pairs: Pairs, *, n_tokens: int, dead_after: int, progress: bool
) -> None:
    """Adam on the squared error, over a stream.

    Args:
        features: Trained in place.
        pairs: Batches of inputs and outputs, of order one.
        n_tokens: Rows in the whole stream.
        dead_after: A feature not active in so many rows is dead, and learns from the error of the
            others until it is active again.
        progress: Whether to show a progress bar.
    """
    learned = [parameter for parameter in features.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(learned, lr=_LEARNING_RATE, betas=(0.9, 0.99))
    since_use = torch.zeros(len(features.decoder), dtype=torch.long, device=features.bias.device)
    done = 0
    with tqdm(total=n_tokens, unit="tok", desc="features", disable=not progress) as bar:
        for x, y in pairs:
            for group in optimizer.param_groups:
                group["lr"] = _LEARNING_RATE * schedule(done / n_tokens, _WARMUP)
            loss, used = _loss(features, x, y, since_use >= dead_after)
            since_use.add_(len(x)).masked_fill_(used, 0)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            features.normalize_()
            done += len(x)
            bar.update(len(x))
            bar.set_postfix(loss=f"{float(loss.detach()):.3f}", refresh=False)


def _loss(features: SparseFeatures, x: Tensor, y: Tensor, dead: Tensor) -> tuple[Tensor, Tensor]:
    """The mean squared error, with a part for dead features; and which features were active."""
    preactivations = features.preactivations(x)
    active = largest(preactivations, features.n_active)
    error = y - features.bias - active @ features.decoder
    loss = error.square().mean()
    n_dead = int(dead.sum())
    if n_dead:
        n_revived = min(_DEAD_AT_ONCE * features.n_active, n_dead)
        explained = largest(preactivations[:, dead], n_revived) @ features.decoder[dead]
        # Detached: dead features learn from the error, and the others must not follow them.
        loss = loss + _DEAD_WEIGHT * (error.detach() - explained).square().mean()
    return loss, (active > 0).any(0)
