"""k-means for codebooks, Euclidean or on the unit sphere, in a few passes over the rows.

Both kinds minimize squared distances; on the sphere these are 2 (1 - cosine), and centroids are
projected back to length one. Three steps replace k-means++ and Lloyd's 25 passes:

1. `draw_seeds`: three times as many rows as codes, drawn exactly as by k-means++, but a block at
   a time.
2. `merge_`: joins their clusters by Ward's criterion until as many are left as there are codes.
   This repairs unlucky draws; greedy k-means++ needs eight candidates per center for the same.
3. `sweep_`: passes in which centroids move after every few thousand rows (Neal & Hinton 1998).
   As in Lloyd's algorithm no step raises the inertia; three or four passes do the work of 25.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from tqdm.auto import tqdm

from clvq_lens.errors import TooFewTokensError
from clvq_lens.stats.precision import best_float, in_double

_OVERSAMPLING = 3  # seeds per code; with 2, the inertia of heavy-tailed data ends 2 % higher
_FEWEST_CANDIDATES, _MOST_CANDIDATES = 32, 256  # seeds drawn at once
_MERGED_AT_ONCE = 0.5  # share of the clusters that are too many
_LEAST_GAIN = 1e-3  # a sweep that lowers the inertia by a smaller share is the last
_SCORES = 2**22  # in a chunk of rows, which then stay in a CPU's cache
_FEWEST_ROWS = 256  # in a chunk
_ROWS_PER_STEP = 4096  # after which centroids move
_SAME = 2e-6  # below this share of the squared norm, a squared distance is only rounding
_REPAIRS = 8  # attempts to give rows to centroids that have none


@dataclass(frozen=True)
class KMeansResult:
    """Centroids, the nearest one of each row, and its squared distance."""

    centroids: Float[Tensor, "k d"]
    codes: Int[Tensor, " n"]
    distances: Float[Tensor, " n"]


def cluster(
    rows: Float[Tensor, "n d"],
    n_codes: int,
    *,
    spherical: bool,
    n_iterations: int,
    generator: torch.Generator,
    progress: bool = False,
) -> KMeansResult:
    """Finds ``n_codes`` centroids, each of which is the nearest one of some row.

    Args:
        rows: Rows in float32 and in random order, of length one if ``spherical``, else centered.
        n_codes: Number of clusters.
        spherical: Whether centroids have length one, too.
        n_iterations: Largest number of sweeps over all rows.
        generator: Random generator on the device of ``rows``.
        progress: Whether to show progress bars.

    Returns:
        The centroids, and the nearest one of each row.

    Raises:
        TooFewTokensError: If fewer than ``n_codes`` rows can be told apart.
    """
    n_seeds = min(_OVERSAMPLING * n_codes, len(rows))
    seeds = draw_seeds(rows, n_seeds, generator=generator, progress=progress)
    if len(seeds) < n_codes:
        raise too_few_distinct(len(seeds), n_codes)
    clusters = _MovingClusters(rows, seeds, spherical=spherical)
    clusters.sweep_()
    clusters.merge_(n_codes)
    inertia = float("inf")
    sweeps = range(n_iterations)
    for _ in tqdm(sweeps, desc="codes", unit="sweep", leave=False, disable=not progress):
        previous = inertia
        inertia = clusters.sweep_()
        clusters.fill_empty_(generator)
        if inertia >= (1 - _LEAST_GAIN) * previous:
            break
    return _settle(rows, clusters.means(), generator)


def nearest(
    rows: Float[Tensor, "n d"], centroids: Float[Tensor, "k d"]
) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
    """The nearest centroid of each row (the first of several), and its squared distance."""
    codes = torch.empty(len(rows), dtype=torch.long, device=rows.device)
    scores = rows.new_empty(len(rows))
    offsets, buffer = _offsets(centroids), _buffer(rows, len(centroids))
    for start in range(0, len(rows), len(buffer)):
        chunk = slice(start, start + len(buffer))
        scores[chunk], codes[chunk] = _best(rows[chunk], centroids, offsets, buffer)
    return codes, _squares(rows).sub_(scores, alpha=2).clamp_min_(0)


def draw_seeds(
    rows: Float[Tensor, "n d"],
    n_seeds: int,
    *,
    generator: torch.Generator,
    progress: bool = False,
) -> Int[Tensor, " m"]:
    """Draws rows as k-means++ does, with p proportional to the squared distance to earlier seeds.

    Plain k-means++ passes over all rows once for each seed. Here a block of candidates is drawn
    from the distances d2 before the block, and each candidate is accepted with probability
    d2 now / d2 before. The distribution is the same, for one matrix product per block.

    Args:
        rows: Rows in float32.
        n_seeds: How many rows to draw.
        generator: Random generator on the device of ``rows``.
        progress: Whether to show a progress bar.

    Returns:
        Indices of the drawn rows; fewer than ``n_seeds`` if no more rows differ.
    """
    squares = _squares(rows)
    seeds = torch.randint(len(rows), (1,), generator=generator, device=rows.device)
    accepted = seeds
    distances = torch.full_like(squares, float("inf"))  # of each row to the nearest seed
    bar = tqdm(total=n_seeds, desc="codes", unit="seed", leave=False, disable=not progress)
    with bar:
        while True:
            bar.update(len(accepted))
            distances = torch.minimum(distances, nearest(rows, rows[accepted])[1])
            distances.masked_fill_(distances <= _SAME * squares, 0)
            if len(seeds) >= n_seeds or not distances.any():
                return seeds[:n_seeds]
            # Few at first, when most candidates of a large block would be refused.
            n_candidates = min(max(_FEWEST_CANDIDATES, len(seeds)), _MOST_CANDIDATES)
            candidates = _draw(distances, n_candidates, generator)
            accepted = candidates[_accept(rows[candidates], distances[candidates], generator)]
            seeds = torch.cat([seeds, accepted])


def too_few_distinct(n_distinct: int, n_codes: int) -> TooFewTokensError:
    """The error for rows of which too many are equal."""
    return TooFewTokensError(
        f"Only {n_distinct} of the rows differ from each other, for {n_codes} codes. Every code "
        f"needs a row of its own: give more varied tokens, or set n_codes to {n_distinct} or less."
    )


class _MovingClusters:
    """A code for each row, and the sums and sizes of clusters that follow from the codes."""

    def __init__(self, rows: Tensor, seeds: Tensor, *, spherical: bool) -> None:
        self.rows, self.spherical = rows, spherical
        self.centroids = rows[seeds]
        self.sums = self.centroids.clone()
        self.sizes = rows.new_ones(len(seeds))
        self.codes = torch.full((len(rows),), -1, device=rows.device)  # -1: no cluster yet
        self.codes[seeds] = torch.arange(len(seeds), device=rows.device)
        self.squares = _squares(rows)

    def sweep_(self) -> float:
        """Gives each row to its nearest centroid; centroids move after every chunk of rows.

        Returns:
            The mean squared distance to the centroids as each row met them.
        """
        buffer = _buffer(self.rows, len(self.sums), _ROWS_PER_STEP)
        scores = torch.empty_like(self.squares)
        for start in range(0, len(self.rows), len(buffer)):
            chunk = slice(start, start + len(buffer))
            offsets = _offsets(self.centroids)
            scores[chunk], codes = _best(self.rows[chunk], self.centroids, offsets, buffer)
            moved = (codes != self.codes[chunk]).nonzero().squeeze(1)
            self._move_(start + moved, codes[moved])
            self.centroids = self._means()
        self.distances = self.squares.sub(scores, alpha=2)
        return in_double(self.distances).mean().item()

    def fill_empty_(self, generator: torch.Generator) -> None:
        """Gives rows that are far from their centroid to clusters that have lost all rows."""
        empty = (self.sizes < 0.5).nonzero().squeeze(1)
        if len(empty) > 0:
            rows = _far_rows(self.distances, self.codes, self.sizes, len(empty), generator)
            self._move_(rows, empty)
            self.centroids = self._means()

    def merge_(self, n_codes: int) -> None:
        """Joins clusters until ``n_codes`` are left, first those that add least to the inertia.

        This is Ward's method, except that several pairs are joined at once: pairs in which each
        cluster is the cheapest partner of the other.
        """
        while len(self.sums) > n_codes:
            costs, partners = _cheapest_merges(self.sums, self.sizes)
            own = torch.arange(len(self.sums), device=self.sums.device)
            is_mutual = (partners[partners] == own) & (own < partners)
            cheapest = costs.argmin()  # joined in any case: rounding can leave no pair mutual
            is_mutual[cheapest] = True
            is_mutual[partners[cheapest]] = False
            kept = is_mutual.nonzero().squeeze(1)
            n_merged = 1 + int(_MERGED_AT_ONCE * (len(self.sums) - n_codes - 1))
            # Stable, so that of pairs with equal cost it is always the same ones.
            kept = kept[costs[kept].argsort(stable=True)[:n_merged]]
            self._join_(kept, partners[kept])
        self.centroids = self._means()

    def means(self) -> Float[Tensor, "k d"]:
        """Centroids from new sums, which lack the rounding errors of many moves."""
        self.sums = torch.zeros_like(self.sums).index_add_(0, self.codes, self.rows)
        return self._means()

    def _means(self) -> Tensor:
        if not self.spherical:
            means = self.sums / self.sizes.clamp_min(1).unsqueeze(1)
            return torch.where(self.sizes.unsqueeze(1) > 0.5, means, self.centroids)
        lengths = torch.linalg.vector_norm(self.sums, dim=1, keepdim=True)
        # Opposite rows cancel out and leave no direction; then the previous centroid stays.
        directed = lengths > 1e-5 * self.sizes.clamp_min(1).unsqueeze(1)
        return torch.where(directed, F.normalize(self.sums, dim=1), self.centroids)

    def _move_(self, index: Tensor, codes: Tensor) -> None:
        """Moves some rows, given by their index, to other clusters."""
        rows, old = self.rows[index], self.codes[index]
        ones = rows.new_ones(len(rows))
        self.sums.index_add_(0, codes, rows)
        self.sizes.index_add_(0, codes, ones)
        known = (old >= 0).nonzero().squeeze(1)
        if len(known) > 0:
            self.sums.index_add_(0, old[known], rows[known], alpha=-1)
            self.sizes.index_add_(0, old[known], ones[known], alpha=-1)
        self.codes[index] = codes

    def _join_(self, kept: Tensor, dropped: Tensor) -> None:
        """Adds each dropped cluster to one that is kept, and numbers the clusters anew."""
        self.sums.index_add_(0, kept, self.sums[dropped])
        self.sizes.index_add_(0, kept, self.sizes[dropped])
        remains = torch.ones(len(self.sums), dtype=torch.bool, device=self.sums.device)
        remains[dropped] = False
        new_codes = remains.cumsum(0) - 1
        new_codes[dropped] = new_codes[kept]
        self.codes = new_codes[self.codes]
        self.sums, self.sizes = self.sums[remains], self.sizes[remains]
        self.centroids = self.centroids[remains]


def _settle(rows: Tensor, centroids: Tensor, generator: torch.Generator) -> KMeansResult:
    """The last assignment; a centroid without rows moves to a row that is far from its own."""
    n_empty = 0
    for _ in range(_REPAIRS):
        codes, distances = nearest(rows, centroids)
        sizes = torch.bincount(codes, minlength=len(centroids))
        empty = (sizes == 0).nonzero().squeeze(1)
        n_empty = len(empty)
        if n_empty == 0:
            return KMeansResult(centroids=centroids, codes=codes, distances=distances)
        far = _far_rows(distances, codes, sizes, n_empty, generator)
        centroids = centroids.index_copy(0, empty, rows[far])
    raise too_few_distinct(len(centroids) - n_empty, len(centroids))


def _far_rows(
    distances: Tensor, codes: Tensor, sizes: Tensor, n_rows: int, generator: torch.Generator
) -> Tensor:
    """Draws different rows with p proportional to their squared distance to their centroid."""
    # Never the only row of a cluster, which would then be empty.
    weights = distances.clamp_min(0) * (sizes[codes] > 1.5)
    clocks = torch.empty_like(weights).exponential_(generator=generator)
    return (weights / clocks).topk(n_rows).indices


def _cheapest_merges(sums: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """The cost of the cheapest merger of each cluster, and the cluster that it merges with."""
    means = sums / sizes.clamp_min(1).unsqueeze(1)  # a cluster without rows merges at no cost
    squares = _squares(means)
    buffer = _buffer(means, len(means))
    costs = torch.empty_like(sizes)
    partners = torch.empty_like(sizes, dtype=torch.long)
    for start in range(0, len(means), len(buffer)):
        chunk = slice(start, start + len(buffer))
        scores = buffer[: len(means[chunk])]
        torch.addmm(squares, means[chunk], means.T, alpha=-2, out=scores)
        scores.add_(squares[chunk].unsqueeze(1)).clamp_min_(0)
        # Ward: the inertia grows by |m1 - m2|^2 / (1/n1 + 1/n2).
        inverse_sizes = sizes[chunk].reciprocal().unsqueeze(1) + sizes.reciprocal()
        scores.div_(inverse_sizes)
        scores.diagonal(start).fill_(float("inf"))  # no cluster merges with itself
        costs[chunk], partners[chunk] = scores.min(1)
    return costs, partners


def _accept(candidates: Tensor, before: Tensor, generator: torch.Generator) -> Tensor:
    """Which candidates are accepted, given those accepted before them; the first always is."""
    uniform = torch.rand(before.shape, generator=generator, device=before.device)
    squares = _squares(candidates)
    between = torch.addmm(squares, candidates, candidates.T, alpha=-2) + squares.unsqueeze(1)
    between.masked_fill_(between <= _SAME * squares, 0)
    # The loop runs on the CPU: one transfer, not one for each candidate.
    limits, between = (uniform * before).cpu(), between.cpu()
    now = before.cpu()  # squared distance to the nearest seed or accepted candidate
    accepted = []
    for i in range(len(limits)):
        if now[i] > 0 and limits[i] <= now[i]:
            accepted.append(i)
            now = torch.minimum(now, between[i])
    return torch.tensor(accepted, device=before.device)


def _draw(weights: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Draws indices with p proportional to their weight."""
    # torch.multinomial takes at most 2**24 weights.
    sums = in_double(weights).cumsum(0)
    dtype = best_float(weights.device)
    uniform = torch.rand(n, generator=generator, device=weights.device, dtype=dtype).to(sums)
    # With rounding a draw may be the total itself, behind the last row that has any weight.
    last = torch.searchsorted(sums, sums[-1:])
    drawn = torch.searchsorted(sums, uniform * sums[-1], right=True).clamp_max(last)
    return drawn.to(weights.device)


def _best(
    rows: Tensor, centroids: Tensor, offsets: Tensor, buffer: Tensor
) -> tuple[Tensor, Tensor]:
    """The highest score x.c - |c|^2 / 2 = (|x|^2 - d2) / 2 of each row, and its centroid."""
    scores = torch.addmm(offsets, rows, centroids.T, out=buffer[: len(rows)])
    best, codes = scores.max(1)
    return best, codes


def _offsets(centroids: Tensor) -> Tensor:
    return _squares(centroids).mul_(-0.5)


def _squares(rows: Tensor) -> Tensor:
    return torch.linalg.vector_norm(rows, dim=1).square_()


def _buffer(rows: Tensor, n_codes: int, most: int = 2**14) -> Tensor:
    """Memory for the scores of a chunk of rows, used again for every chunk: new memory is slow."""
    n_rows = min(max(_FEWEST_ROWS, _SCORES // n_codes), most, len(rows))
    return rows.new_empty(n_rows, n_codes)
