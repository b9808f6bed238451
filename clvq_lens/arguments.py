"""Checks of arguments: impossible values are refused before anything is computed."""

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from types import UnionType
from typing import Any, TypeGuard

from clvq_lens.errors import ConfigError, DataError

_MOST_SEED = 2**63 - 1  # what the generators of torch and numpy take
_MOST_COUNT = 2**53  # whole numbers up to here are exact as floats, too
_MOST_NUMBER = 1e38  # float32 holds a little more


CodeNames = Mapping[int, str]
"""What codes are called, such as ``lens.concepts(texts).names()``."""


def closest(name: object, names: Iterable[str]) -> str:
    """A hint such as "Closest: 'n_codes'. ", or nothing when no name is similar."""
    found = closest_name(name, names) if isinstance(name, str) else None
    return "" if found is None else f"Closest: {found!r}. "


def closest_name(name: str, names: Iterable[str]) -> str | None:
    """The name that a user may have meant; None where no name is similar."""
    return next(iter(difflib.get_close_matches(name, names, n=1, cutoff=0.5)), None)


def check_is(name: str, value: object, kind: type | UnionType, remedy: str) -> None:
    """Raises `ConfigError` unless an argument is of a kind.

    Args:
        name: Name of the argument.
        value: The value that was passed.
        kind: A class, several, or a protocol that can be checked.
        remedy: A sentence that says what to pass.
    """
    if not isinstance(value, kind):
        raise ConfigError(f"{name} is of type {type(value).__name__}. {remedy}")


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Raises `ConfigError` unless an argument is one of some words.

    Args:
        name: Name of the argument.
        value: The value that was passed.
        choices: The words.
    """
    choices = list(choices)
    if not isinstance(value, str) or value not in choices:
        allowed = ", ".join(map(repr, choices))
        raise ConfigError(f"{name} is {value!r}. {closest(value, choices)}Pass one of {allowed}.")


def check_flags(**flags: object) -> None:
    """Raises `ConfigError` unless arguments are True or False."""
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise ConfigError(f"{name} is {value!r}; pass True or False.")


def as_list(what: str, values: object, remedy: str) -> list[Any]:
    """The items of a list, an array or a generator.

    Args:
        what: What the items are, as the beginning of a sentence.
        values: The values that were passed; a string counts as one thing, not many.
        remedy: A sentence that says what to pass.

    Raises:
        DataError: If it cannot be iterated over.
    """
    items: Iterator[Any] | None = None
    if isinstance(values, Iterable) and not isinstance(values, str | bytes):
        with suppress(TypeError):  # an array without an axis
            items = iter(values)
    if items is None:
        raise DataError(f"{what} are {type(values).__name__}. {remedy}")
    return list(items)


def checked_text(text: str, name: str) -> str:
    """The text itself.

    Raises:
        DataError: If it has a half of a surrogate pair, which no tokenizer and no file takes.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{name} has half a character (the lone surrogate {text[error.start]!a}) at index "
            f"{error.start}, which cannot be encoded. Replace such halves: "
            f"text.encode('utf-8', 'replace').decode()."
        ) from error
    return text


def check_names(names: object) -> None:
    """Raises `ConfigError` or `DataError` unless these are names of codes, or None."""
    check_is("names", names, Mapping | None, "Pass {code: name, ...}, as table.names() does.")
    for code, name in names.items() if isinstance(names, Mapping) else ():
        if not isinstance(name, str):
            raise ConfigError(f"The name of code {code!r} is {name!r}; names are strings.")
        checked_text(name, f"The name of code {code!r}")


def check_seed(seed: object) -> None:
    """Raises `ConfigError` unless every random generator takes it as a seed."""
    if not _is_whole(seed) or not 0 <= seed <= _MOST_SEED:
        raise ConfigError(f"seed is {seed!r}; pass a whole number from 0 to 2**63 - 1.")


def check_count(name: str, value: object, *, least: int = 1) -> None:
    """Raises `ConfigError` unless an argument is a whole number that is large enough.

    Args:
        name: Name of the argument.
        value: The value that was passed.
        least: The smallest number allowed.
    """
    if not _is_whole(value) or not least <= value <= _MOST_COUNT:
        raise ConfigError(f"{name} is {value!r}; pass a whole number from {least} to 2**53.")


def check_positive(name: str, value: object, *, whole: bool = False) -> None:
    """Raises `ConfigError` unless an argument is a number above 0.

    Args:
        name: Name of the argument.
        value: The value that was passed.
        whole: Whether it is a whole number.
    """
    most = _MOST_COUNT if whole else _MOST_NUMBER
    if not _is_number(value) or (whole and not _is_whole(value)) or not 0 < value <= most:
        number = "whole number" if whole else "number"
        raise ConfigError(f"{name} is {value!r}; pass a {number} above 0, up to {most:g}.")


def check_between(name: str, value: object, low: float, high: float) -> None:
    """Raises `ConfigError` unless an argument is a finite number in a closed interval.

    Args:
        name: Name of the argument.
        value: The value that was passed.
        low: Lower end of the interval.
        high: Upper end of the interval; may be infinity.
    """
    if not _is_number(value) or not low <= value <= high or abs(value) > _MOST_NUMBER:
        end = ")" if high == math.inf else "]"
        raise ConfigError(f"{name} is {value!r}; pass a number in [{low:g}, {high:g}{end}.")


def _is_whole(value: object) -> TypeGuard[int]:
    """Whether it is a whole number."""
    # bool is a subclass of int, but n_codes=True is a mistake and not a 1.
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
