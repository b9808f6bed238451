"""Controls of equal usage: an effect may come from nothing but how often a code occurs."""

import numpy as np
from jaxtyping import Int


def nearest_in_share(usage: Int[np.ndarray, " k"], code: int, n: int) -> Int[np.ndarray, " m"]:
    """The other codes in use whose usage is nearest to that of one code, by ratio.

    The ratio and not the difference, because usage is spread over orders of magnitude: 10 and 20
    tokens are further apart than 1,000 and 1,010.

    Args:
        usage: Tokens of each code.
        code: The code that needs controls.
        n: How many controls, at most.

    Returns:
        The codes, nearest first; of equally near ones, the lower code first.

    Example:
        >>> nearest_in_share(np.array([10, 0, 100, 12, 40]), 0, 2).tolist()
        [3, 4]
    """
    others = np.flatnonzero(usage)
    others = others[others != code]
    # An unused code has no ratio to others, and is nearest to the rarest ones.
    distance = np.abs(np.log(usage[others]) - np.log(max(usage[code], 1)))
    return others[np.argsort(distance, kind="stable")[:n]]
