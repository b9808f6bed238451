"""Hostile values: what no one should pass, and what somebody will."""

import decimal
import fractions
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.hostile.trial import UsersOwnError


class Unfriendly:
    """Raises whatever is asked of it."""

    def __repr__(self) -> str:
        raise UsersOwnError("no repr")

    def __eq__(self, other: object) -> bool:
        raise UsersOwnError("no equality")

    __hash__ = None  # type: ignore[assignment]


class IndexOnly:
    """A whole number by `__index__` alone, as numpy's are."""

    def __init__(self, value: int) -> None:
        self._value = value

    def __index__(self) -> int:
        return self._value

    def __repr__(self) -> str:
        return f"IndexOnly({self._value})"


# Whatever may be passed for an option.
SCALARS: list[Any] = [
    *(None, True, False, 0, 1, 2, 3, 5, -1, -(2**31), 2**31, 2**63, 2**70),
    *(0.0, -0.0, 0.5, 1.0, 2.0, -1.5, 1e-320, 1e308, float("nan"), float("inf"), float("-inf")),
    *("", " ", "1", "nearest", "error", "split", "truncate", "raw", "codes", "table", "\ud800"),
    *("mean", "\x00", "x" * 10_000, b"1", b""),
    *(np.int64(1), np.int64(-1), np.uint8(3), np.float32(0.5), np.float64("nan"), np.bool_(True)),
    *(np.array(1), np.array([1]), np.array([]), np.array(["a"]), np.str_("split")),
    *(torch.tensor(1), torch.tensor(0.5), torch.tensor([1, 2]), torch.tensor(True)),
    *((), [], [1], (1, 2), {}, {"a": 1}, {1}, frozenset(), range(3), slice(None), ...),
    *(1j, decimal.Decimal(1), decimal.Decimal("NaN"), fractions.Fraction(1, 2)),
    *(object(), Unfriendly(), IndexOnly(1), lambda *_: 1, Path("x"), NotImplemented),
]

# Single texts, all of them strings.
TEXTS: list[str] = [
    *("", " ", "\t", "\n", "\r", "\x00", "\x00" * 50, "\x1b[31mw5\x1b[0m", "\ufeffw5 w6"),
    *("w5", "w5 w6 w7", "w5  w6", " w5", "w5 ", "w5\nw6", "w5\r\nw6", "w5\u2028w6", "w5\x0bw6"),
    *("w5 " * 47, "w5 " * 48, "w5 " * 49, "w5 " * 500, "x" * 100_000, "w5" * 30_000),
    *("\ud800", "w5 \udfff w6", "w5\ud83d", "\udce9t\udce9"),  # lone surrogates
    *("\u202ew5 w6\u202c", "شلون w5 مرحبا", "e\u0301" * 20, "Z" + "\u0300" * 300 + " w5"),
    *(
        "👩‍👩‍👧‍👦 w5",
        "🏳️‍🌈" * 10,
        "漢字 w5 かな",
        "\U0010ffff",
        "\uffff\ufffe",
        "\u200b\u200d\ufe0f",
    ),
    *("<|end|>", "<|end|> w5 <|end|>", "[CLS] w5 [SEP]", "[PAD] [PAD]", "<s></s>", "<unk>"),
    *("</script><script>alert(1)</script> w5", "<!-- w5", "{{ w5 }}", "%s %d w5", "\\ud800 w5"),
    *("unknown", "unknown words only", "w5 unknown w6", "W5", "w39 w40 w41", "w-1", "5 6 7"),
    *("reviews.csv", "missing.txt", "missing.jsonl", "/dev/null", "http://example.org/a.txt"),
    *("NaN", "None", "null", '{"text": "w5 w6"}', "=1+1", "'; DROP TABLE texts; --"),
]


_MORE_THAN_ENOUGH = 100_000


def endless(*values: Any) -> Iterator[Any]:
    """Texts, or other values in turn, without an end; says so when far too many have been read."""
    for number in range(_MORE_THAN_ENOUGH):
        if values:
            yield values[number % len(values)]
        else:
            yield f"w{5 + number % 35} w{5 + number % 7} w{5 + number % 11}"
    raise AssertionError(f"an endless source was read for {_MORE_THAN_ENOUGH:,} items")


def broken() -> Iterator[str]:
    """Texts from a source that breaks off."""
    yield "w5 w6 w7"
    raise UsersOwnError("the source broke off")


class BrokenMiddle:
    """A sequence whose items cannot all be read."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> str:
        if index >= 5:
            raise IndexError(index)
        if index == 3:
            raise UsersOwnError("a bad sector")
        return "w5 w6 w7"
