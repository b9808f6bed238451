"""How many tokens have each pair of numbers, such as a code and a label."""

import numpy as np
from jaxtyping import Int, Shaped

from clvq_lens.errors import ShapeError


def contingency(
    first: Shaped[np.ndarray, " n"],
    second: Shaped[np.ndarray, " m"],
    *,
    shape: tuple[int, int] | None = None,
    counts: Int[np.ndarray, " n"] | None = None,
) -> Int[np.ndarray, "a b"]:
    """Counts of pairs, with rows for the first partition and columns for the second.

    Args:
        first: Cluster of each token in the first partition.
        second: Cluster of each token in the second partition.
        shape: Numbers of rows and columns, if both partitions are numbers from 0; None: a row and
            a column for each cluster that occurs, in sorted order.
        counts: How many tokens each pair stands for; None: one. Only with counts may there be no
            pair at all.

    Raises:
        ShapeError: If the partitions differ in length, or hold no token.

    Example:
        >>> contingency(np.array([0, 0, 1]), np.array([1, 1, 0]), shape=(2, 2)).tolist()
        [[0, 2], [1, 0]]
        >>> contingency(np.array([7, 7, 9]), np.array(["a", "b", "a"])).tolist()
        [[1, 1], [1, 0]]
    """
    if len(first) != len(second) or (len(first) == 0 and counts is None):
        raise ShapeError(
            f"The partitions have {len(first)} and {len(second)} tokens. Pass one cluster of each "
            f"for every token, and at least one token."
        )
    if shape is None:
        rows, first = np.unique(first, return_inverse=True)
        columns, second = np.unique(second, return_inverse=True)
        shape = len(rows), len(columns)
    pairs = np.ravel_multi_index((first.astype(np.int64), second.astype(np.int64)), shape)
    # Not table[pairs] += counts, which would count equal pairs once.
    table = np.zeros(shape, dtype=np.int64)
    np.add.at(table.reshape(-1), pairs, 1 if counts is None else counts)
    return table
