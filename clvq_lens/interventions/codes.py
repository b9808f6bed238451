"""Codes as a user names them: one or several whole numbers that a codebook has."""

import operator
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from clvq_lens.errors import CodeRangeError, ConfigError
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer

Codes = int | Iterable[int]


def code_numbers(codes: Codes, quantizer: CrossLayerQuantizer) -> tuple[int, ...]:
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
    """Raises `CodeRangeError` if the quantizer does not have one of the codes."""
    n_codes = quantizer.config.n_codes
    wrong = next((code for code in codes if not 0 <= code < n_codes), None)
    if wrong is not None:
        raise CodeRangeError(
            f"{who} names code {wrong}. Pass codes of the codebook: 0 to {n_codes - 1}."
        )


def as_codes(codes: Any) -> tuple[int, ...]:
    """One code, or several, as a tuple of ints; those of NumPy and torch are taken too.

    Raises:
        ConfigError: If one of them is no whole number.
    """
    if _is_number(codes):
        return (operator.index(codes),)
    given: list[Any] = [codes]
    if not isinstance(codes, str):
        with suppress(TypeError):  # no iterable, or an array without an axis
            given = list(codes)
    for code in given:
        if not _is_number(code):
            raise ConfigError(f"{codes!r} is no code. Pass whole numbers.")
    return tuple(operator.index(code) for code in given)


def _is_number(code: Any) -> bool:
    """Whether it is one whole number; True and False are answers, not codes."""
    if isinstance(code, bool | np.bool_) or getattr(code, "dtype", None) == torch.bool:
        return False
    try:
        operator.index(code)
    except (TypeError, RuntimeError, ValueError):
        return False
    return True


def membership(codes: Sequence[int], quantizer: CrossLayerQuantizer) -> Bool[Tensor, " k"]:
    """True for the codes named, among all that the quantizer has."""
    members = torch.zeros(quantizer.config.n_codes, dtype=torch.bool, device=quantizer.device)
    members[list(codes)] = True
    return members


def one_code(codes: Sequence[Sequence[int]]) -> list[int]:
    """The code at each position; -1 where texts differ, or none counts."""
    columns = zip(*codes, strict=True)
    return [column[0] if len(set(column)) == 1 else -1 for column in columns]
