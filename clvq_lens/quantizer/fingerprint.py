"""Fingerprint: a few values of every weight matrix, which tell apart models of one shape."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

Samples = Mapping[str, list[float]]
"""A few values of each matrix, by its name, such as "blocks.3.attn.W_Q"."""

_DTYPES_BY_NAME = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_ROUNDING = 1e-4  # another order of processing does less in float32, and fine-tuning does more
_ANOTHER_MODEL = 0.5  # unrelated weights differ by 1.4, fine-tuned ones by a few per cent


@dataclass(frozen=True)
class WeightDifference:
    """How the weights of two models differ.

    Attributes:
        n_matrices: Number of matrices that both models have samples of.
        n_different: How many of these differ by more than rounding.
        largest: The largest relative difference of a matrix, ||mine - theirs|| / ||mine||.
        matrix: The matrix with the largest difference.
    """

    n_matrices: int
    n_different: int
    largest: float
    matrix: str

    @property
    def agree(self) -> bool:
        """Whether these are the same weights."""
        return self.n_different == 0

    def __str__(self) -> str:
        verdict = "another model" if self.largest > _ANOTHER_MODEL else "fine-tuned or edited"
        return (
            f"{self.n_different} of {self.n_matrices} sampled matrices differ, most of all "
            f"{self.matrix} (by {self.largest:.1%}): {verdict}"
        )


def compare(mine: Samples, theirs: Samples, *dtypes: str) -> WeightDifference | None:
    """Compares two fingerprints; None if they have no matrix in common.

    Args:
        mine: Samples of one model.
        theirs: Samples of the other.
        *dtypes: Dtypes of both models; weights were rounded to them.
    """
    common = [name for name in mine if len(mine[name]) == len(theirs.get(name, ()))]
    if not common:
        return None
    # Rounding to a dtype moves a value by at most half its eps; a root mean square is smaller.
    tolerance = _ROUNDING
    for dtype in dtypes:
        plain = dtype.partition(",")[0]  # the rest says how weights are quantized
        tolerance = max(tolerance, torch.finfo(_DTYPES_BY_NAME.get(plain, torch.float32)).eps / 2)
    differences = {name: _relative_difference(mine[name], theirs[name]) for name in common}
    matrix = max(differences, key=differences.__getitem__)
    n_different = sum(difference > tolerance for difference in differences.values())
    return WeightDifference(len(common), n_different, differences[matrix], matrix)


def _relative_difference(mine: list[float], theirs: list[float]) -> float:
    # Weights that were never filled may hold NaN, which must equal itself.
    ours = torch.tensor(mine, dtype=torch.double).nan_to_num()
    others = torch.tensor(theirs, dtype=torch.double).nan_to_num()
    norm = float(ours.norm())
    difference = float((ours - others).norm())
    if norm == 0:
        return 0.0 if difference == 0 else 1.0
    return difference / norm
