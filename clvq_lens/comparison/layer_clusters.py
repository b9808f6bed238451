"""Clusterings of tokens: of each layer on its own, of all layers, and the codes of a lens."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_array
from sklearn.cluster import KMeans
from tqdm.auto import tqdm

from clvq_lens.comparison.layer_tokens import LayerTokens
from clvq_lens.errors import NonFiniteError

_N_ITERATIONS = 50  # beyond that the inertia of k-means falls by less than a thousandth


@dataclass(frozen=True)
class Partition:
    """A number in [0, n) for every training token and every held-out token.

    Attributes:
        train: The numbers of training tokens.
        test: The numbers of held-out tokens.
        n: How many numbers there are.
    """

    train: Int[np.ndarray, " n"]
    test: Int[np.ndarray, " m"]
    n: int

    def shuffled(self, random: np.random.Generator) -> "Partition":
        """The same numbers in random order."""
        train = random.permutation(self.train)
        return Partition(train, random.permutation(self.test), self.n)

    def errors(
        self, train: Float[np.ndarray, "n d"], test: Float[np.ndarray, "m d"]
    ) -> Float[np.ndarray, " m"]:
        """Squared error of every held-out token, replaced by the training mean of its part.

        A part without a training token has the mean of all of them.
        """
        counts = np.bincount(self.train, minlength=self.n)
        ones = np.ones(len(self.train))
        # Sparse: a matrix of parts by tokens with a single one for each token.
        members = csr_array((ones, (self.train, np.arange(len(self.train)))), (self.n, len(train)))
        means = (members @ train.astype(np.float64)) / np.maximum(1, counts)[:, None]
        means[counts == 0] = train.mean(0)
        return np.square(test - means[self.test]).sum(1)


class Clusterings:
    """k-means of training tokens, and the nearest clusters of held-out ones.

    Args:
        train: Training tokens.
        test: Held-out tokens.
        bar: Progress bar, which moves by one with each k-means.
    """

    def __init__(self, train: LayerTokens, test: LayerTokens, bar: tqdm) -> None:
        self._train, self._test, self._bar = train, test, bar

    def of_layer(self, point: str, n_clusters: int, *, seed: int) -> Partition:
        """What a layer finds on its own."""
        train, test = self._train.layers[point], self._test.layers[point]
        return self._kmeans(train, test, n_clusters, seed)

    def of_layers(self, points: list[str], n_clusters: int, *, seed: int) -> Partition:
        """Several layers side by side, each scaled to unit variance."""
        train, test = [], []
        for point in points:
            # Unscaled, the layer with the longest activations would decide alone.
            scale = np.sqrt(self._train.layers[point].var(0).sum())
            train.append(self._train.layers[point] / scale)
            test.append(self._test.layers[point] / scale)
        return self._kmeans(
            np.concatenate(train, axis=1), np.concatenate(test, axis=1), n_clusters, seed
        )

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
            random_state=seed % 2**32,  # our seeds go up to 2**63, those of scikit-learn do not
        )
        clusters = kmeans.fit_predict(train)
        nearest = np.asarray(kmeans.predict(test))
        self._bar.update()
        return Partition(clusters, nearest, n_clusters)


def clusters_needed(
    fvu: float, own_fvu: Float[np.ndarray, " sizes"], sizes: list[int]
) -> tuple[float, bool]:
    """How many clusters reach an FVU, between those that were tried.

    Args:
        fvu: The FVU to be reached.
        own_fvu: The FVU that each number of clusters reaches.
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
    needed = float(np.exp(np.interp(fvu, falling[::-1], logs[::-1])))  # it wants ascending values
    return needed, bool(fvu < falling[-1])
