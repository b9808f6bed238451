"""Codes as a user names them: one or several whole numbers that a codebook has."""

import operator
from collections.abc import Iterable, Sequence
from contextlib import suppress

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from clvq_lens.errors import CodeRangeError, ConfigError
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer

CodeOrCodes = int | Iterable[int]


def code_numbers(codes: CodeOrCodes, quantizer: CrossLayerQuantizer) -> tuple[int, ...]:
    """One or several codes as a tuple.

    Raises:
        CodeRangeError: If there is none, or one that the quantizer does not have.
    """
    numbers = as_codes(codes)
    if not numbers:
        raise CodeRangeError("No code was named. Name at least one.")
    check_range(numbers, quantizer, f"codes={codes!r}")
    return numbers


def check_range(codes: Sequence[int], quantizer: CrossLayerQuantizer, who: str) -> None:
    """Raises `CodeRangeError` if the quantizer does not have one of the codes.

    Args:
        codes: The codes.
        quantizer: The quantizer.
        who: What names them, for the error, such as the edit as it is printed.
    """
    n_codes = quantizer.config.n_codes
    for code in codes:
        if not 0 <= code < n_codes:
            raise CodeRangeError(
                f"{who} names code {code}. Pass codes of the codebook: 0 to {n_codes - 1}."
            )


def as_codes(codes: object) -> tuple[int, ...]:
    """One code, or several, as a tuple of ints; those of NumPy and torch are taken too.

    Raises:
        ConfigError: If one of them is not a whole number.
    """
    number = _whole_number(codes)
    if number is not None:
        return (number,)
    items: list[object] = [codes]
    if not isinstance(codes, str):  # "17" does not mean the codes 1 and 7
        with suppress(TypeError):  # not iterable, or an array without an axis
            items = list(codes)  # pyright: ignore[reportArgumentType]
    numbers = []
    for item in items:
        number = _whole_number(item)
        if number is None:
            raise ConfigError(f"{codes!r} is not a code. Pass whole numbers.")
        numbers.append(number)
    return tuple(numbers)


def _whole_number(code: object) -> int | None:
    """One whole number as an int; None for anything else."""
    # True is 1 to Python, but to a user it is an answer.
    if isinstance(code, bool | np.bool_) or getattr(code, "dtype", None) == torch.bool:
        return None
    try:
        return operator.index(code)  # pyright: ignore[reportArgumentType]
    except (TypeError, RuntimeError, ValueError):
        return None


def membership(codes: Sequence[int], quantizer: CrossLayerQuantizer) -> Bool[Tensor, " k"]:
    """True for the codes named, among all that the quantizer has."""
    members = torch.zeros(quantizer.config.n_codes, dtype=torch.bool, device=quantizer.device)
    members[list(codes)] = True
    return members


def one_code(codes: Sequence[Sequence[int]]) -> list[int]:
    """The code at each position; -1 where texts differ, or none counts.

    Args:
        codes: The codes of each text, all of the same length.
    """
    codes_at_positions = np.array(codes)
    first = codes_at_positions[0]
    agree = (codes_at_positions == first).all(axis=0)
    return np.where(agree, first, -1).tolist()
