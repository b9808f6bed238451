"""Texts of the toy world: drawn from the grammar, and matched against it again."""

import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence

from clvq_lens.arguments import check_count, check_seed
from clvq_lens.errors import DataError
from clvq_lens.toy.grammar import story
from clvq_lens.toy.slots import Option, Slot

_N_EXPECTED = 8  # words that an error names


def generate(n_texts: int, *, seed: int) -> list[str]:
    """Stories of the toy world, some 30 to 70 words each, words separated by single spaces.

    Args:
        n_texts: How many.
        seed: The same seed gives the same texts; more texts begin with the same ones.

    Returns:
        The texts. The model was not trained on them, except where chance repeats a story.

    Example:
        >>> generate(1, seed=0) == generate(2, seed=0)[:1]
        True
    """
    check_count("n_texts", n_texts, least=0)
    check_seed(seed)
    return list(itertools.islice(stream(random.Random(f"clvq_lens.toy texts {seed}")), n_texts))


def stream(rng: random.Random) -> Iterator[str]:
    """Stories without end."""

    def draw(slot: Slot) -> Option:
        return slot.draw(rng.random())

    while True:
        yield " ".join(option.word for option in told(draw))


def token_labels(texts: Sequence[str]) -> list[list[str]]:
    """The true concept of every word, which is every token that the model sees after BOS.

    Concepts are decided from left to right, so a text may stop early, as prompts do.

    Args:
        texts: Texts of the grammar: from ``load`` or ``generate``, or written by hand.

    Returns:
        For each text one concept of ``CONCEPTS`` per token, BOS left out.

    Raises:
        DataError: If a text is not of the grammar.

    Example:
        >>> token_labels(["yesterday at dusk we painters"])
        [['past', 'preposition', 'evening', 'person', 'profession']]
    """
    concepts = []
    for options in _parsed(texts):
        concepts.append([option.concept for option in options])
    return concepts


def entropy(texts: Sequence[str] | None = None) -> float:
    """Entropy of the grammar in nats per token: no model can have a smaller expected loss.

    It is the mean of -log p(word | words before) under the grammar. Give the texts on which a
    model's loss was measured, and the difference of the two is what that model has yet to learn.
    BOS is not counted, and neither is the end of a text, which its last sentence announces.

    Args:
        texts: Texts of the grammar; None: 2,000 generated ones.

    Returns:
        Nats per token.

    Raises:
        DataError: If a text is not of the grammar, or there is none.

    Example:
        >>> round(entropy(["yesterday"]), 4)  # one of four first words
        1.3863
    """
    surprisals: list[float] = []
    for options in _parsed(generate(2000, seed=0) if texts is None else texts):
        for option in options:
            surprisals.append(-math.log(option.probability))
    if not surprisals:
        raise DataError("No text to average over. Pass at least one text of the toy world.")
    return math.fsum(surprisals) / len(surprisals)  # exact, so the order of texts does not matter


def told(choose: Callable[[Slot], Option]) -> Iterator[Option]:
    """The options of one story, each taken by ``choose`` from the slot that is open."""
    # Whether words are drawn or looked up, the grammar is the same: it exists once.
    steps = story()
    slot = next(steps)
    while True:
        option = choose(slot)
        yield option
        try:
            slot = steps.send(option)
        except StopIteration:
            return


def _parsed(texts: Sequence[str]) -> Iterator[list[Option]]:
    if isinstance(texts, str):
        raise DataError("Expected a list of texts, got one string. Pass [text].")
    for index, text in enumerate(texts):
        yield parse(text, index)


def parse(text: str, index: int = 0) -> list[Option]:
    """The choices that lead to ``text``, the ``index``-th of its list."""
    words = text.split()
    if not words:
        raise DataError(f"Text {index} is empty. Leave it out, or write a story.")
    position = 0

    def look_up(slot: Slot) -> Option:
        if words[position] not in slot.by_word:
            raise DataError(_no_such_word(words, position, index, slot))
        return slot.by_word[words[position]]

    options: list[Option] = []
    for option in told(look_up):
        options.append(option)
        position += 1
        if position == len(words):
            return options
    raise DataError(
        f"Text {index} goes on with {words[position]!r} (word {position}) after the end of the "
        f"story. End it before that word, and give every story as a text of its own."
    )


def _no_such_word(words: list[str], position: int, index: int, slot: Slot) -> str:
    likely = sorted(slot.options, key=lambda option: -option.probability)[:_N_EXPECTED]
    expected = ", ".join(repr(option.word) for option in likely)
    more = f" (and {len(slot.options) - _N_EXPECTED} others)"
    if len(slot.options) <= _N_EXPECTED:
        more = ""
    before = " ".join(words[max(0, position - 6) : position]) or "the beginning"
    return (
        f"Text {index} is not of the toy world: word {position}, {words[position]!r}, cannot "
        f"follow {before!r}. Expected {expected}{more}. Correct it (lower case, words and marks "
        f"separated by spaces), or take texts from clvq_lens.toy.generate()."
    )
