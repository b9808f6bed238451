"""Tasks for causal models, which answer with their own next token: no probe, no fine-tuning."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import clvq_lens as cl
from benchmarks.paper.data import stories
from benchmarks.stories import stories_model

_INDOOR, _OUTDOOR = ["indoors", "upstairs"], ["outdoors", "outside"]
_PRONOUN = re.compile(r"\b(he|she)\b", re.IGNORECASE)
_MIN_WORDS, _MAX_WORDS = 8, 60


@dataclass(frozen=True, kw_only=True)
class Question:
    """Texts that stop where the model has to choose.

    Attributes:
        model: A causal model.
        layers: Source and target; at least one block is left above.
        n_codes: Size of the codebook.
        train: Texts to fit on.
        texts: Held-out texts, cut before the answer.
        classes: The right answer to each text: the number of a class.
        answers: Tokens of each class.
    """

    model: Any
    layers: tuple[int, int]
    n_codes: int
    train: list[str]
    texts: list[str]
    classes: list[int]
    answers: Sequence[Sequence[str]]


def surroundings(n_texts: int = 400) -> Question:
    """The toy world: a word of the first sentence says whether a story goes on in or out of doors.

    The text is that sentence, and the last one up to where "outdoors" or "indoors" may follow.
    """
    model, train = cl.toy.load(n_texts=3_000)
    held_out = cl.toy.generate(n_texts, seed=1)
    texts, classes = [], []
    for text, concepts in zip(held_out, cl.toy.token_labels(held_out), strict=True):
        opening, rest = text.split(" . ", 1)
        closing = rest[rest.index("finally") :].split(" .")[0]
        texts.append(_without_answers(f"{opening} . {closing}"))
        # The first of them is the concept of the way, which all others in the story follow.
        where = next(concept for concept in concepts if concept in ("indoor", "outdoor"))
        classes.append(int(where == "outdoor"))
    return Question(
        model=model,
        layers=(0, 2),
        n_codes=128,
        train=train,
        texts=texts,
        classes=classes,
        answers=[_INDOOR, _OUTDOOR],
    )


def _without_answers(text: str) -> str:
    words = [word for word in text.split() if word not in (*_INDOOR, *_OUTDOOR)]
    return " ".join(words)


def pronouns() -> Question:
    """Stories cut before their first "he" or "she": which is it?"""
    train, held_out = stories()
    texts, classes = [], []
    for story in [*held_out, *train[400:]]:
        pronoun = _PRONOUN.search(story)
        if pronoun is None or not pronoun[1].islower():  # the answers are lower-case tokens
            continue
        before = story[: pronoun.start()].rstrip()
        if _MIN_WORDS <= len(before.split()) <= _MAX_WORDS:
            texts.append(before)
            classes.append(int(pronoun[1] == "she"))
    texts, classes = _balanced(texts, classes)
    return Question(
        model=stories_model(),
        layers=(1, 3),
        n_codes=400,
        train=train[:400],  # the others are judged with
        texts=texts,
        classes=classes,
        answers=[["▁he"], ["▁she"]],
    )


def _balanced(texts: Sequence[str], classes: Sequence[int]) -> tuple[list[str], list[int]]:
    """The first texts of each class, as many of both."""
    n_of_each = min(Counter(classes).values())
    n_taken: Counter[int] = Counter()
    chosen_texts, chosen_classes = [], []
    for text, number in zip(texts, classes, strict=True):
        if n_taken[number] < n_of_each:
            n_taken[number] += 1
            chosen_texts.append(text)
            chosen_classes.append(number)
    return chosen_texts, chosen_classes
