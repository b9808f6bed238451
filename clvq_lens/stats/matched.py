"""Controls of equal usage: an effect may come from nothing but how often a code occurs."""

import numpy as np
from jaxtyping import Bool, Float, Int

N_MATCHED = 5  # controls of each code, wherever codes are compared with others
_DECIMALS = 9  # of a log ratio: 2 to 4 and 4 to 8 are the same ratio, but not to the last bit


def nearest_in_share(
    usage: Int[np.ndarray, " k"],
    code: int,
    n: int = N_MATCHED,
    *,
    allowed: Bool[np.ndarray, " k"] | None = None,
    apart: Float[np.ndarray, " k"] | Int[np.ndarray, " k"] | None = None,
) -> Int[np.ndarray, " m"]:
    """The other codes in use whose usage is nearest to that of one code, by ratio.

    This is what "matched in share" means in every verb: the effect of a code stands beside the
    mean effect of these codes, or of draws among them. What is counted as usage is what the effect
    grows with: tokens of a code in the texts, in training, or together with another code.

    The ratio and not the difference, because usage is spread over orders of magnitude: 10 and 20
    tokens are further apart than 1,000 and 1,010.

    Args:
        usage: Tokens of each code, or of each ablation of one.
        code: The code that needs controls.
        n: How many controls, at most.
        allowed: Which codes may be controls; None: all in use.
        apart: A distance of each code from this one, which decides among equally used ones; None:
            there is no such distance.

    Returns:
        The codes, nearest first; where nothing else decides, those that follow the code in number
        come first, and after the last code the first one follows.

    Example:
        >>> nearest_in_share(np.array([10, 0, 100, 12, 40]), 0, 2).tolist()
        [3, 4]
    """
    may_be_control = usage > 0
    may_be_control[code] = False
    if allowed is not None:
        may_be_control = may_be_control & allowed
    others = np.flatnonzero(may_be_control)
    # An unused code has no ratio to others, and is nearest to the rarest ones.
    log_ratio = np.abs(np.log(usage[others]) - np.log(max(usage[code], 1)))
    # Many codes are equally rare. Were the lowest numbers taken, all would share their controls.
    steps = (others - code) % len(usage)
    tie_breakers = (steps,) if apart is None else (steps, apart[others])
    order = np.lexsort((*tie_breakers, log_ratio.round(_DECIMALS)))  # the last key comes first
    return others[order[:n]]
