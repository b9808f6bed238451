"""Several verdicts at once."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float


def holm(p_values: Sequence[float]) -> Float[np.ndarray, " n"]:
    """p-values corrected for their number: max over smaller p of (n - rank) p (Holm 1979).

    To call those below 0.05 found keeps the probability of a single false one below 0.05, however
    the tests depend on each other.

    Args:
        p_values: One for each verdict; NaN, where there is none, counts as 1.

    Returns:
        Corrected p-values in [0, 1], never below those that were given.

    Example:
        >>> holm([0.01, 0.04, 0.03]).round(2).tolist()
        [0.03, 0.06, 0.06]
    """
    p = np.nan_to_num(np.asarray(p_values, dtype=float), nan=1.0)
    order = np.argsort(p, kind="stable")
    corrected = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    in_order = np.empty(len(p))
    in_order[order] = np.minimum(corrected, 1.0)
    return in_order


def holm_level(p_values: Sequence[float], *, level: float) -> float:
    """Level of intervals that say what Holm's method says.

    The method stops at the first p that is too large for alpha / (n - found), with alpha =
    1 - level. Everything found is below that bound and nothing else is, so that intervals of
    level 1 - alpha / (n - found) lie clear of the threshold exactly where something was found.

    Args:
        p_values: One for each verdict, of the kind of `Measured.p_above`.
        level: Level of a single verdict, such as 0.95.

    Example:
        >>> round(holm_level([0.001, 0.4, 0.3], level=0.95), 4)  # one found, and two are left
        0.975
    """
    n_left = int((holm(p_values) >= 1 - level).sum())
    return 1 - (1 - level) / max(n_left, 1)
