"""The codebook: distances, nearest and sampled codes, EMA updates, revival of dead codes."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from clvq_lens.config import CLVQConfig
from clvq_lens.quantizer.initialization import Clusters

_SMOOTHING = 1e-5  # Laplace smoothing of cluster sizes, as in VQ-VAE (arXiv 1711.00937)
_SCALE_ROWS = 1024  # rows, about, that estimate the mean distance to the nearest code
_REVIVED_AT_ONCE, _FEWEST_REVIVED = 1 / 64, 16  # dead codes: of all codes, and at least
# On a CPU, the scores of a chunk stay in the cache.
_SCORES_PER_CHUNK = {"cpu": 2**20, "cuda": 2**26}
_SCORES_ELSEWHERE = 2**24
# Rows of a chunk, however many codes there are: for fewer, all code vectors would come from memory
# again too often. But not more than 128 MB of scores for them.
_USUAL_ROWS, _FEWEST_ROWS, _MOST_SCORES = 1024, 256, 2**25
_MANY_CODES = 2**14  # more code vectors are not copied
# On a CPU, up to so many codes and ranks, the least of a row is found faster again and again.
_FEW_CODES, _FEW_RANKS = 256, 8


@dataclass(frozen=True)
class Assignment:
    """Codes drawn for training, and the nearest codes of the same tokens."""

    codes: Int[Tensor, " n"]
    nearest: Int[Tensor, " n"]


@dataclass(frozen=True)
class Nearest:
    """The nearest code of each row, and by how much it is nearer than the second.

    Attributes:
        codes: The nearest code; the lowest of several at the same distance.
        distance: Squared distance to that code.
        margin: How much larger the squared distance to the second nearest code is; infinite
            where there is only one code.
    """

    codes: Int[Tensor, " n"]
    distance: Float[Tensor, " n"]
    margin: Float[Tensor, " n"]


def squared_distances(
    z: Float[Tensor, "n d"], vectors: Float[Tensor, "k d"]
) -> Float[Tensor, "n k"]:
    """Squared Euclidean distance of every row to every code vector, in float32.

    Both sides are shifted by the mean code vector first: residual streams have a mean far longer
    than the distances of interest, and its square would swallow their last digits.
    """
    with torch.autocast(z.device.type, enabled=False):
        center = vectors.float().mean(0)
        z = z.float() - center
        vectors = vectors.float() - center
        squares = z.square().sum(1, keepdim=True) + vectors.square().sum(1)
        return torch.addmm(squares, z, vectors.T, alpha=-2).clamp_min_(0)  # rounding may go below


def nearest_codes(z: Float[Tensor, "n d"], vectors: Float[Tensor, "k d"]) -> Int[Tensor, " n"]:
    """The code of the nearest vector, for each row; ties go to the lower code.

    Example:
        >>> nearest_codes(torch.tensor([[0.9, 0.0]]), torch.eye(2))
        tensor([0])
    """
    codes = torch.empty(len(z), dtype=torch.long, device=z.device)
    for rows, scores in _scores(z, vectors):
        _least(scores, codes[rows])
    return codes


def nearest_and_margin(z: Float[Tensor, "n d"], vectors: Float[Tensor, "k d"]) -> Nearest:
    """The nearest code of each row as in `nearest_codes`, its distance and its margin.

    Example:
        >>> nearest_and_margin(torch.tensor([[0.9, 0.0]]), torch.eye(2)).margin
        tensor([1.8000])
    """
    codes = torch.empty(len(z), dtype=torch.long, device=z.device)
    margin = z.new_empty(len(z), dtype=torch.float32)
    for rows, scores in _scores(z, vectors):
        first = _least(scores, codes[rows])
        best = codes[rows].unsqueeze(1)
        margin[rows] = scores.scatter_(1, best, torch.inf).amin(1) - first
    # Computed again: scores lack ||z||^2, and adding it would cost the last digits.
    distance = (z.float() - vectors[codes].float()).square().sum(1)
    return Nearest(codes, distance, margin)


def sample_codes(
    z: Float[Tensor, "n d"],
    vectors: Float[Tensor, "k d"],
    *,
    top_k: int,
    temperature: float | Float[Tensor, ""],
    clocks: Float[Tensor, "n top_k"],
) -> Assignment:
    """Draws, for each row, one of the ``top_k`` nearest codes, p proportional to exp(-d2 / T).

    Args:
        z: Encoder outputs.
        vectors: The code vectors.
        top_k: How many of the nearest codes take part.
        temperature: T, in units of squared distance.
        clocks: Draws from the exponential distribution with rate 1, which decide.

    Returns:
        The drawn and the nearest code of each row.
    """
    scores = z.new_empty(top_k, len(z), dtype=torch.float32)
    codes = torch.empty(top_k, len(z), dtype=torch.long, device=z.device)
    for rows, chunk in _scores(z, vectors):
        _smallest(chunk, scores[:, rows], codes[:, rows])
    # Exponential clocks with rates p: each rings first with probability p. A clock with rate p
    # rings at t / p, where t is a draw with rate 1; here is the logarithm of that time. Scores are
    # distances minus ||z||^2, which is the same for all codes of a row and decides nothing.
    times = scores / temperature + clocks.log().T
    drawn = times.min(0, keepdim=True).indices  # as argmin, but faster on a CPU
    return Assignment(codes=codes.gather(0, drawn).squeeze(0), nearest=codes[0])


def _least(scores: Float[Tensor, "rows k"], codes: Int[Tensor, " rows"]) -> Float[Tensor, " rows"]:
    """Writes the code with the lowest score of each row, and returns that score."""
    # The same codes as those of argmin, which takes twice as long on a CPU.
    values = scores.new_empty(len(scores))
    torch.min(scores, dim=1, out=(values, codes))
    return values


def _smallest(
    scores: Float[Tensor, "rows k"],
    values: Float[Tensor, "top_k rows"],
    codes: Int[Tensor, "top_k rows"],
) -> None:
    """Writes the lowest scores of each row and their codes, the lowest first; scores are lost."""
    top_k, n_codes = len(values), scores.shape[1]
    if scores.device.type == "cpu" and n_codes <= _FEW_CODES and top_k <= _FEW_RANKS:
        for rank in range(top_k):
            values[rank] = _least(scores, codes[rank])
            scores.scatter_(1, codes[rank].unsqueeze(1), torch.inf)
        return
    lowest = torch.topk(scores, top_k, dim=1, largest=False)
    values.copy_(lowest.values.T)
    codes.copy_(lowest.indices.T)


def _scores(
    z: Float[Tensor, "n d"], vectors: Float[Tensor, "k d"]
) -> Iterator[tuple[slice, Float[Tensor, "rows k"]]]:
    """Squared distances minus a constant per row, chunk by chunk in one buffer that is reused."""
    with torch.no_grad(), torch.autocast(z.device.type, enabled=False):
        vectors = vectors.detach().float()
        center = vectors.mean(0)
        # As in squared_distances; but a shift of one side alone changes no more than a constant of
        # each row. Many code vectors are not copied, and the rows of a chunk are shifted.
        shifts_rows = len(vectors) > _MANY_CODES
        if shifts_rows:
            parts = vectors.split(_MANY_CODES)
            offsets = torch.cat([(part - center).square().sum(1) for part in parts])
        else:
            vectors = vectors - center
            offsets = vectors.square().sum(1) + 2 * (vectors @ center)
        n_scores = _SCORES_PER_CHUNK.get(z.device.type, _SCORES_ELSEWHERE)
        usual = min(_USUAL_ROWS, _MOST_SCORES // len(vectors))
        n_rows = max(_FEWEST_ROWS, usual, n_scores // len(vectors))
        buffer = vectors.new_empty(min(n_rows, len(z)), len(vectors))
        for start in range(0, len(z), n_rows):
            rows = z[start : start + n_rows].detach().float()
            rows = rows - center if shifts_rows else rows
            scores = torch.addmm(offsets, rows, vectors.T, alpha=-2, out=buffer[: len(rows)])
            yield slice(start, start + len(rows)), scores


class _StraightThrough(torch.autograd.Function):
    """Forward: the code vector. Backward: as if it were z, so q = z + stop_gradient(e - z)."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, vectors: Tensor) -> Tensor:
        # torch treats an output that is an input specially, hence the clone.
        return vectors.clone() if vectors is z else vectors

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0], None


def straight_through(
    z: Float[Tensor, "*n d"], vectors: Float[Tensor, "*n d"]
) -> Float[Tensor, "*n d"]:
    """The code vectors, whose gradient goes on to ``z`` unchanged (arXiv 1711.00937)."""
    return _StraightThrough.apply(z, vectors.detach())  # type: ignore[return-value]


class Codebook(nn.Module):
    """Code vectors that follow the running mean of the encoder outputs assigned to them.

    Args:
        config: Number of codes, sampling, decay, revival.
        d: Width of a code vector.
        generator: Random generator for the vectors that are there before `initialize_`.
    """

    vectors: Float[Tensor, "k d"]
    ema_sizes: Float[Tensor, " k"]
    ema_sums: Float[Tensor, "k d"]
    tokens_since_use: Int[Tensor, " k"]
    mean_distance: Float[Tensor, ""]
    n_revived: Int[Tensor, ""]

    def __init__(self, config: CLVQConfig, d: int, *, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        vectors = torch.randn(config.n_codes, d, generator=generator, device=generator.device)
        self.register_buffer("vectors", vectors)
        self.register_buffer("ema_sizes", torch.ones(config.n_codes))
        self.register_buffer("ema_sums", vectors.clone())
        self.register_buffer("tokens_since_use", torch.zeros(config.n_codes, dtype=torch.long))
        self.register_buffer("mean_distance", torch.ones(()))
        self.register_buffer("n_revived", torch.zeros((), dtype=torch.long))

    def forward(self, codes: Int[Tensor, "*n"]) -> Float[Tensor, "*n d"]:
        """The code vectors of some codes."""
        return F.embedding(codes, self.vectors)

    def nearest(self, z: Float[Tensor, "*n d"]) -> Int[Tensor, "*n"]:
        """The nearest code of each encoder output."""
        return nearest_codes(z.reshape(-1, z.shape[-1]), self.vectors).view(z.shape[:-1])

    def nearest_and_margin(self, z: Float[Tensor, "n d"]) -> Nearest:
        """The nearest code of each encoder output, and by how much it is nearer than the second."""
        return nearest_and_margin(z, self.vectors)

    def distances(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Squared distance of each encoder output to every code."""
        return squared_distances(z, self.vectors)

    def code_of(self, vectors: Float[Tensor, "*n d"]) -> Int[Tensor, "*n"]:
        """The code whose vector is nearest to each given vector."""
        flat = vectors.reshape(-1, vectors.shape[-1])
        return nearest_codes(flat, self.vectors).view(vectors.shape[:-1])

    def clocks(self, n: int, *, generator: torch.Generator) -> Float[Tensor, "n top_k"]:
        """The randomness of `sample`, for as many rows.

        Processes that share a batch draw it for all rows, as one process would, and use their own.
        """
        shape = n, self.config.resolved_top_k
        # Several times as fast as exponential_ on a CPU. The draws lie below 1, so none is zero.
        uniform = torch.rand(shape, generator=generator, device=self.vectors.device)
        return uniform.log_().neg_()

    def sample(self, z: Float[Tensor, "*n d"], *, generator: torch.Generator) -> Assignment:
        """Codes for training, drawn among the ``top_k`` nearest."""
        return self.sample_by(z, self.clocks(z[..., 0].numel(), generator=generator))

    def sample_by(
        self, z: Float[Tensor, "*n d"], clocks: Float[Tensor, "rows top_k"]
    ) -> Assignment:
        """The same, with randomness that `clocks` has drawn."""
        unit = self.mean_distance if self.config.temperature_unit == "relative" else 1.0
        return sample_codes(
            z.reshape(-1, z.shape[-1]),
            self.vectors,
            top_k=self.config.resolved_top_k,
            temperature=float(self.config.temperature) * unit,
            clocks=clocks,
        )

    @torch.no_grad()
    def initialize_(self, clusters: Clusters) -> None:
        """Takes over centroids; running sizes and sums start at those of the clusters."""
        self.vectors.copy_(clusters.centroids)
        self.ema_sizes.copy_(clusters.sizes)
        self.ema_sums.copy_(clusters.centroids * clusters.sizes.unsqueeze(1))
        self.tokens_since_use.zero_()
        self.n_revived.zero_()

    @torch.no_grad()
    def measure_distance_(
        self, z: Float[Tensor, "n d"], nearest: Int[Tensor, " n"], *, decay: float
    ) -> None:
        """Moves the running mean of the squared distance to the nearest code."""
        rows = slice(None, None, max(1, len(z) // _SCALE_ROWS))  # spread over the batch
        d2 = (z[rows].float() - self(nearest[rows])).square().sum(1).mean()
        # Never zero: the temperature is a multiple of this mean, and is divided by.
        self.mean_distance.lerp_(d2.clamp_min(torch.finfo(torch.float32).tiny), 1 - decay)

    @torch.no_grad()
    def update_(
        self, z: Float[Tensor, "n d"], assignment: Assignment, *, generator: torch.Generator
    ) -> None:
        """Makes one EMA step on the real tokens of a batch, and revives dead codes.

        N <- g N + (1 - g) n; M <- g M + (1 - g) sum z; e = M / N for the codes in use (VQ-VAE,
        arXiv 1711.00937). N is Laplace-smoothed where it is used, not where it is stored. Codes
        that no token chose keep their vector, because their M / N does not change.
        """
        if len(z) == 0:
            return  # a mean over no distances would be NaN
        z = z.detach().float()
        codes, decay = assignment.codes, self.config.ema_decay
        sizes, sums = sums_by_code(codes, z, self.config.n_codes)
        self.measure_distance_(z, assignment.nearest, decay=decay)
        self.ema_sizes.lerp_(sizes.to(self.ema_sizes), 1 - decay)
        self.ema_sums.lerp_(sums, 1 - decay)
        total = self.ema_sizes.sum()
        smoothed = (self.ema_sizes + _SMOOTHING) * total / (total + len(sizes) * _SMOOTHING)
        used = sizes > 0
        means = self.ema_sums / smoothed.unsqueeze(1)
        torch.where(used.unsqueeze(1), means, self.vectors, out=self.vectors)
        self.tokens_since_use.add_(len(z)).masked_fill_(used, 0)
        self._revive_(z, codes, generator)

    def _revive_(
        self, z: Float[Tensor, "n d"], codes: Int[Tensor, " n"], generator: torch.Generator
    ) -> None:
        """Moves dead codes to tokens of the batch that are far from their own code.

        A few of them at once, those first that have been dead for longest. How many are dead is
        not asked, because the answer would have to be waited for: where fewer are, the others stay
        what they are.
        """
        n = min(len(z), max(_FEWEST_REVIVED, int(_REVIVED_AT_ONCE * len(self.vectors))))
        unused, chosen = self.tokens_since_use.topk(min(n, len(self.vectors)))
        is_dead = unused >= self.config.resolved_dead_after_tokens
        rows = slice(None, None, max(1, len(z) // max(_SCALE_ROWS, 4 * n)))
        z, codes = z[rows], codes[rows]
        # Rows are drawn with p proportional to their squared distance, as in k-means++.
        distances = (z - self(codes)).square().sum(1)
        clocks = torch.empty_like(distances).exponential_(generator=generator)
        drawn = z[(distances / clocks).topk(len(chosen)).indices]
        # As heavy as the average code. A light one would move to the mean of the few tokens that
        # are first drawn for it. That mean is closer to all tokens than their codes are, so that
        # this code would soon have all tokens.
        size = self.ema_sizes.mean()
        for values, new in (
            (self.vectors, drawn),
            (self.ema_sizes, size),
            (self.ema_sums, size * drawn),
            (self.tokens_since_use, 0),
        ):
            where = is_dead.view(-1, *[1] * (values.ndim - 1))
            values[chosen] = torch.where(where, new, values[chosen])
        self.n_revived += is_dead.sum()


def sums_by_code(
    codes: Int[Tensor, " n"], values: Float[Tensor, "n d"], n_codes: int
) -> tuple[Int[Tensor, " k"], Float[Tensor, "k d"]]:
    """How many rows each code has, and their sum."""
    # Not by bincount, which has to wait for a device.
    sizes = torch.zeros(n_codes, dtype=torch.long, device=codes.device)
    sizes.index_add_(0, codes, torch.ones_like(codes))
    sums = values.new_zeros(n_codes, values.shape[1]).index_add_(0, codes, values)
    return sizes, sums
