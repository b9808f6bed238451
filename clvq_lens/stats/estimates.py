"""A number with its interval, from a standard error and degrees of freedom."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd
from scipy.stats import t as student

from clvq_lens.showing import with_interval

LEVEL = 0.95


class Estimate(float):
    """A number with its interval: 95 % over documents, unless its source says otherwise.

    Both ends are NaN where data cannot give an interval, as one document cannot.

    Attributes:
        low: Lower end of the interval.
        high: Upper end.
    """

    low: float
    high: float

    def __new__(cls, value: float, low: float, high: float) -> "Estimate":
        """A float with an interval."""
        self = super().__new__(cls, value)
        self.low, self.high = low, high
        return self

    def __repr__(self) -> str:
        return with_interval(self, self.low, self.high, digits=4)

    # A float is copied and pickled by its value alone, which is not enough here.
    def __reduce__(self) -> tuple[type, tuple[float, float, float]]:
        return Estimate, (float(self), self.low, self.high)


@dataclass(frozen=True)
class Measured:
    """A number as it was measured, from which intervals and p-values follow.

    Attributes:
        value: The number.
        error: Its standard error; NaN if data cannot tell.
        freedom: Degrees of freedom of the error.
    """

    value: float
    error: float
    freedom: float

    def estimate(
        self, *, level: float = LEVEL, limits: tuple[float, float] = (-math.inf, math.inf)
    ) -> Estimate:
        """The number with its interval: value -+ error times a quantile of Student's t.

        Args:
            level: How often such intervals hold the truth.
            limits: Least and largest value that the number can have. No interval goes beyond them,
                which takes nothing from it that could be true.
        """
        if not math.isfinite(self.error):
            return Estimate(self.value, math.nan, math.nan)
        half_width = self.error * float(student.ppf((1 + level) / 2, self.freedom))
        low = max(self.value - half_width, limits[0])
        high = min(self.value + half_width, limits[1])
        # Rounding may leave a value a little beyond its limits, and it is in its interval all the
        # same.
        return Estimate(self.value, min(low, self.value), max(high, self.value))

    def p_above(self, threshold: float) -> float:
        """Twice the probability of a value as large as this one if the truth is the threshold.

        Twice, so that it is below 1 - level exactly where the interval of `estimate` lies above
        the threshold.

        Args:
            threshold: What the number is compared with.

        Returns:
            A p-value in [0, 1]; NaN without an error.
        """
        if not math.isfinite(self.error):
            return math.nan
        if self.error == 0:  # all documents say the same
            return 0.0 if self.value > threshold else 1.0
        above = student.sf((self.value - threshold) / self.error, self.freedom)
        return min(1.0, 2 * float(above))


def estimates_frame(results: Iterable[object]) -> pd.DataFrame:
    """One row for each result: its attributes, and the ends of the interval of each estimate.

    Args:
        results: Objects such as dataclasses. If their ``fvu`` is an `Estimate`, the table has the
            columns fvu, fvu_low and fvu_high.
    """
    rows: list[dict[str, object]] = []
    for result in results:
        row: dict[str, object] = {}
        for name, value in vars(result).items():
            if isinstance(value, Estimate):
                row[name] = float(value)
                row[f"{name}_low"], row[f"{name}_high"] = value.low, value.high
            else:
                row[name] = value
        rows.append(row)
    return pd.DataFrame(rows)
