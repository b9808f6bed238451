"""Code vectors in few dimensions, for the map of a codebook and for the colours of its codes."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

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
    """The first three principal components; zeros where there are fewer, or nothing varies."""
    n, width = vectors.shape
    points, shares = np.zeros((n, N_COMPONENTS)), np.zeros(N_COMPONENTS)
    if n < 2 or not np.ptp(vectors, axis=0).any():
        return Components(points, shares)
    from sklearn.decomposition import PCA

    pca = PCA(min(N_COMPONENTS, n, width), random_state=0)
    found = pca.fit_transform(vectors)
    points[:, : found.shape[1]] = found
    shares[: found.shape[1]] = pca.explained_variance_ratio_
    return Components(points, shares)
