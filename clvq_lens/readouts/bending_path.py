"""A path that is looked at where it bends: points are added where the pieces do not add up."""

import numpy as np
from jaxtyping import Float

from clvq_lens.readouts.integrated_gradients import Quadrature

_FIRST_POINTS = np.linspace(0, 1, 9)


class BendingPath:
    """The quantity and its slopes along the path of one text, which goes from 0 to 1.

    The path is in pieces of three points, over which Simpson's rule adds up slopes. What the
    quantity gains over a piece is known, too, so that the error of every piece is known. A piece
    with too large an error is cut in half, and four of its five points are there already. Points
    gather where the model changes its mind: from a mean activation to that of a text, a causal
    model may do so all at once, where attention finds its sink.
    """

    def __init__(self) -> None:
        self.wanted = _FIRST_POINTS
        self.points = np.empty(0)
        self.values = np.empty(0)
        self.slopes = np.empty((0, 0))

    @property
    def difference(self) -> float:
        """What the quantity gains over the whole path."""
        return float(self.values[-1] - self.values[0])

    def add(self, values: Float[np.ndarray, " w"], slopes: Float[np.ndarray, "w pos"]) -> None:
        """Takes in what was found at the points that were wanted.

        Args:
            values: The quantity.
            slopes: How steeply it rises, by what moves at each position.
        """
        if len(self.points):
            slopes = np.concatenate([self.slopes, slopes])
        points = np.concatenate([self.points, self.wanted])
        values = np.concatenate([self.values, values])
        order = points.argsort()
        self.points, self.values, self.slopes = points[order], values[order], slopes[order]
        self.wanted = np.empty(0)

    def refine(self, tolerance: float, most: int) -> None:
        """Wants more points where the pieces do not add up, if their errors are too large.

        Args:
            tolerance: Sum of the errors of all pieces at which the points are enough, as a share of
                the way that the quantity goes: all its rises and falls.
            most: Number of points that is not passed.
        """
        starts, ends = self.points[:-2:2], self.points[2::2]
        slopes = self.slopes.sum(1)
        simpson = (ends - starts) / 6 * (slopes[:-2:2] + 4 * slopes[1:-1:2] + slopes[2::2])
        # Sizes and not their sum, in which errors of two pieces may cancel by chance.
        errors = np.abs(simpson - (self.values[2::2] - self.values[:-2:2]))
        # The way and not the difference, which is small where a class first gains and then loses.
        allowed = tolerance * np.abs(np.diff(self.values)).sum()
        if errors.sum() <= allowed:
            return
        # As few cuts as it takes until the pieces that stay have half of what is allowed; a half
        # of a piece has a sixteenth of its error, where the path is smooth.
        worst = errors.argsort()[::-1]
        staying = errors.sum() - errors[worst].cumsum()
        n_cut = 1 + int((staying > allowed / 2).sum())
        cut = worst[: min(n_cut, (most - len(self.points)) // 2)]
        eighths = (ends - starts)[cut] / 4
        self.wanted = np.concatenate([starts[cut] + eighths, ends[cut] - eighths])

    @property
    def rule(self) -> Quadrature:
        """Simpson's rule over all pieces."""
        sixths = (self.points[2::2] - self.points[:-2:2]) / 6
        weights = np.zeros(len(self.points))
        weights[:-2:2] += sixths
        weights[1:-1:2] += 4 * sixths
        weights[2::2] += sixths
        return Quadrature(self.points, weights)
