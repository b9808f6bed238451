"""Tasks for causal models, which answer with their own next token: no probe, no fine-tuning."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import clvq_lens as cl
from benchmarks.paper.ablations import stories_model
from benchmarks.paper.data import stories

_INDOOR, _OUTDOOR = ["indoors", "upstairs"], ["outdoors", "outside"]
_PRONOUN = re.compile(r"\b(he|she)\b", re.IGNORECASE)
_MIN_WORDS, _MAX_WORDS = 8, 60


@dataclass(frozen=True, kw_only=True)
class Question:
    """Texts that stop where the model has to choose.

    Attributes:
        model: A causal model.
        layers: Source and target; at least one block is left above.
        n_codes: Of the codebook.
        train: Texts to fit on.
        texts: Held out, cut before the answer.
        labels: The right answer: a class number.
        answers: Tokens of each class.
    """

    model: Any
    layers: tuple[int, int]
    n_codes: int
    train: list[str]
    texts: list[str]
    labels: list[int]
    answers: Sequence[Sequence[str]]


def surroundings(n_texts: int = 400) -> Question:
    """The toy world: a word of the first sentence says whether a story goes on in or out of doors.

    The text is that sentence, and the last one up to where "outdoors" or "indoors" may follow.
    """
    model, train = cl.toy.load(n_texts=3_000)
    held_out = cl.toy.generate(n_texts, seed=1)
    texts, labels = [], []
    for text, concepts in zip(held_out, cl.toy.labels(held_out), strict=True):
        opening, rest = text.split(" . ", 1)
        where = next(label for label in concepts if label in ("indoor", "outdoor"))
        texts.append(f"{opening} . {rest[rest.index('finally') :].split(' .')[0]}")
        texts[-1] = " ".join(w for w in texts[-1].split() if w not in {*_INDOOR, *_OUTDOOR})
        labels.append(int(where == "outdoor"))
    return Question(
        model=model,
        layers=(0, 2),
        n_codes=128,
        train=train,
        texts=texts,
        labels=labels,
        answers=[_INDOOR, _OUTDOOR],
    )


def pronouns() -> Question:
    """Stories cut before their first "he" or "she": which is it?"""
    train, held_out = stories()
    texts, labels = [], []
    for story in [*held_out, *train[400:]]:
        found = _PRONOUN.search(story)
        before = story[: found.start()].rstrip() if found else ""
        if found and found[1].islower() and _MIN_WORDS <= len(before.split()) <= _MAX_WORDS:
            texts.append(before)
            labels.append(int(found[1] == "she"))
    keep = _balanced(labels)
    return Question(
        model=stories_model(),
        layers=(1, 3),
        n_codes=400,
        train=train[:400],
        texts=[texts[i] for i in keep],
        labels=[labels[i] for i in keep],
        answers=[["▁he"], ["▁she"]],
    )


def _balanced(labels: Sequence[int]) -> list[int]:
    """The first texts of each class, as many of both."""
    numbers = np.array(labels)
    each = np.bincount(numbers).min()
    return sorted(i for c in (0, 1) for i in np.flatnonzero(numbers == c)[:each].tolist())
