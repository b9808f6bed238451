"""Code vectors in few dimensions, for the map of a codebook and for the colors of its codes."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from sklearn.decomposition import PCA

N_COMPONENTS = 3  # two for the map; the third orders codes that lie in the same direction on it


class Components(NamedTuple):
    """Vectors along their principal components.

    Attributes:
        points: Coordinates, the component of the largest variance first.
        shares: Fraction of the variance that each component shows.
    """

    points: Float[np.ndarray, "n 3"]
    shares: Float[np.ndarray, " 3"]


def principal_components(vectors: Float[np.ndarray, "n d"]) -> Components:
    """The first three principal components; zeros where there are fewer, or nothing varies.

    Args:
        vectors: The vectors, one a row.
    """
    n, width = vectors.shape
    points, shares = np.zeros((n, N_COMPONENTS)), np.zeros(N_COMPONENTS)
    # PCA divides by the total variance, which is zero where all vectors are equal.
    if n < 2 or not np.ptp(vectors, axis=0).any():
        return Components(points, shares)
    # The seed counts for large codebooks, where scikit-learn takes a randomized solver.
    pca = PCA(min(N_COMPONENTS, n, width), random_state=0)
    coordinates = pca.fit_transform(vectors)
    n_components = coordinates.shape[1]
    points[:, :n_components] = coordinates
    shares[:n_components] = pca.explained_variance_ratio_
    return Components(points, shares)
