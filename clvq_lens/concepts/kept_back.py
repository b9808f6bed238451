"""Which contexts whoever names codes is shown, and which are kept back to judge the names by."""

import hashlib
from collections.abc import Iterable

from clvq_lens.concepts.concept import Concept, Example


def shown_examples(concept: Concept) -> tuple[Example, ...]:
    """The typical and random examples that a function which names codes is shown.

    They come from one half of the documents. The other half is kept back, for all codes alike: who
    has seen a document under one name would know it again under another.
    """
    shown: list[Example] = []
    for example in (*concept.typical, *concept.random):
        if not _is_kept_back(example.document):
            shown.append(example)
    return tuple(shown)


def kept_back_examples(concepts: Iterable[Concept]) -> dict[int, tuple[Example, ...]]:
    """For each code the random examples that its name can be judged by.

    None of them comes from a document of which a context is shown, of any code, or reads the same
    as one that is: many documents begin alike. A code of which nothing is shown has none, since no
    name was made of it.
    """
    concepts = tuple(concepts)
    shown_of = {concept.code: shown_examples(concept) for concept in concepts}
    shown_texts: set[str] = set()
    for examples in shown_of.values():
        shown_texts.update(map(_text, examples))
    kept_back: dict[int, tuple[Example, ...]] = {}
    for concept in concepts:
        fresh: list[Example] = []
        for example in concept.random:
            if _is_kept_back(example.document) and _text(example) not in shown_texts:
                fresh.append(example)
        kept_back[concept.code] = tuple(fresh) if shown_of[concept.code] else ()
    return kept_back


def _is_kept_back(document: int) -> bool:
    """Whether a document is in the half that is kept back: one of each two that follow each other.

    The number alone decides, so that naming and judging agree without a seed.
    """
    pair, which_of_two = divmod(document, 2)
    # A hash and not the parity: documents may take turns, such as a good and a bad review.
    coin = hashlib.blake2b(str(pair).encode()).digest()[0] % 2
    return which_of_two == coin


def _text(example: Example) -> str:
    """What a context says, without a mark and without the spaces around it."""
    return f"{example.before}{example.token}{example.after}".strip()
