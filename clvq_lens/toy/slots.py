"""The places of a text where a word is chosen, and what can stand there."""

import bisect
import itertools
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TypeAlias, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Option:
    """A word that may come next.

    Attributes:
        word: The word itself.
        concept: Its true concept here.
        probability: Probability of this word, given the words before.
        leads: What the story does next if this word is taken; "" if it makes no difference.
    """

    word: str
    concept: str
    probability: float
    leads: str = ""


@dataclass(frozen=True)
class Slot:
    """All words that may come next; their probabilities add up to 1."""

    options: tuple[Option, ...]
    by_word: dict[str, Option] = field(repr=False)
    cumulative: tuple[float, ...] = field(repr=False)

    def draw(self, uniform: float) -> Option:
        """The option at ``uniform``, a number in [0, 1)."""
        index = bisect.bisect_right(self.cumulative, uniform)
        return self.options[min(index, len(self.options) - 1)]  # rounding may end below 1


Steps: TypeAlias = Generator[Slot, Option, T]
"""A part of a story: yields slots, is sent the options taken, returns what it learned."""


def share(words: Iterable[str], concept: str, total: float = 1.0, leads: str = "") -> list[Option]:
    """Options for ``words``, equally likely, which have the weight ``total`` together."""
    words = tuple(words)
    return [Option(word, concept, total / len(words), leads) for word in words]


def slot(*groups: list[Option]) -> Slot:
    """One slot of all the options; their weights are scaled to add up to 1."""
    options = list(itertools.chain(*groups))
    total = sum(option.probability for option in options)
    scaled: list[Option] = []
    by_word: dict[str, Option] = {}
    for option in options:
        if option.probability == 0:  # a group that the grammar leaves out here
            continue
        scaled.append(replace(option, probability=option.probability / total))
        by_word[option.word] = scaled[-1]
    # Otherwise a text would not tell which choice was made.
    assert len(by_word) == len(scaled), "a word stands twice in a slot: the text is ambiguous"
    cumulative = itertools.accumulate(option.probability for option in scaled)
    return Slot(tuple(scaled), by_word, tuple(cumulative))


@cache
def one_of(words: tuple[str, ...], concept: str) -> Slot:
    """A slot of equally likely words of one concept."""
    return slot(share(words, concept))


def say(words: str, concept: str) -> Steps[None]:
    """Words that leave no choice."""
    for word in words.split():
        yield one_of((word,), concept)
