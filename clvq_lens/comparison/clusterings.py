"""Clusterings of tokens: of each layer on its own, of all layers, and the codes of a lens."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_array
from sklearn.cluster import KMeans
from tqdm.auto import tqdm

from clvq_lens.comparison.layers import LayerTokens
from clvq_lens.errors import NonFiniteError

_N_ITERATIONS = 50  # of k-means: beyond that inertia falls by less than a thousandth


@dataclass(frozen=True)
class Partition:
    """A number in [0, n) for every training token and every held-out token.

    Attributes:
        train: Of training tokens.
        test: Of held-out tokens.
        n: How many numbers there are.
    """

    train: Int[np.ndarray, " n"]
    test: Int[np.ndarray, " m"]
    n: int

    def shuffled(self, random: np.random.Generator) -> "Partition":
        """The same numbers in random order."""
        return Partition(random.permutation(self.train), random.permutation(self.test), self.n)

    def errors(
        self, train: Float[np.ndarray, "n d"], test: Float[np.ndarray, "m d"]
    ) -> Float[np.ndarray, " m"]:
        """Squared error of every held-out token, replaced by the training mean of its part.

        A part that no training token is in has the mean of all of them.
        """
        counts = np.bincount(self.train, minlength=self.n)
        ones = np.ones(len(self.train))
        members = csr_array((ones, (self.train, np.arange(len(self.train)))), (self.n, len(train)))
        means = (members @ train.astype(np.float64)) / np.maximum(1, counts)[:, None]
        means[counts == 0] = train.mean(0)
        return np.square(test - means[self.test]).sum(1)


class Clusterings:
    """k-means of training tokens, and the nearest clusters of held-out ones.

    Args:
        train: Training tokens.
        test: Held-out tokens.
        bar: Moves by one with each k-means.
    """

    def __init__(self, train: LayerTokens, test: LayerTokens, bar: tqdm) -> None:
        self._train, self._test, self._bar = train, test, bar

    def of_layer(self, point: str, n_clusters: int, *, seed: int) -> Partition:
        """What a layer finds on its own."""
        train, test = self._train.layers[point], self._test.layers[point]
        return self._kmeans(train, test, n_clusters, seed)

    def of_layers(self, points: list[str], n_clusters: int, *, seed: int) -> Partition:
        """Of several layers side by side, each scaled to unit variance."""
        scales = [np.sqrt(self._train.layers[point].var(0).sum()) for point in points]
        train, test = (
            np.concatenate(
                [tokens.layers[point] / s for point, s in zip(points, scales, strict=True)], axis=1
            )
            for tokens in (self._train, self._test)
        )
        return self._kmeans(train, test, n_clusters, seed)

    def _kmeans(
        self,
        train: Float[np.ndarray, "n d"],
        test: Float[np.ndarray, "m d"],
        n_clusters: int,
        seed: int,
    ) -> Partition:
        if not (np.isfinite(train).all() and np.isfinite(test).all()):
            raise NonFiniteError(
                "The activations of a layer are not finite once they have unit variance: they all "
                "but vanish, or overflow. Leave that layer out."
            )
        kmeans = KMeans(
            n_clusters,
            n_init=1,  # pyright: ignore[reportArgumentType]
            max_iter=_N_ITERATIONS,
            random_state=seed % 2**32,
        )
        found, nearest = kmeans.fit_predict(train), np.asarray(kmeans.predict(test))
        self._bar.update()
        return Partition(found, nearest, n_clusters)


def clusters_needed(
    fvu: float, own_fvu: Float[np.ndarray, " sizes"], sizes: list[int]
) -> tuple[float, bool]:
    """How many clusters reach an FVU, between those that were tried.

    Args:
        fvu: To be reached.
        own_fvu: Reached by each number of clusters.
        sizes: These numbers, ascending.

    Returns:
        The number, interpolated over its logarithm and no larger than the largest; and whether
        that one does not reach it.

    Example:
        >>> clusters_needed(0.5, np.array([1.0, 0.6, 0.4]), [1, 4, 16])
        (8.000000000000002, False)
    """
    falling = np.minimum.accumulate(own_fvu)  # k-means may miss a little that a smaller one found
    logs = np.log(sizes)
    needed = float(np.exp(np.interp(fvu, falling[::-1], logs[::-1])))
    return needed, bool(fvu < falling[-1])
