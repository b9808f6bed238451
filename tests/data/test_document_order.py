"""Documents come in random order, in memory that does not grow, and every first part is fair."""

from collections import Counter
from collections.abc import Iterator
from itertools import islice

import numpy as np
import pytest
import torch

from clvq_lens.data.document_order import DocumentOrder

# Longer and longer along the corpus; every text tells its place.
SKEWED = [f"{place} " + "x" * place for place in range(2_000)]
SMALL = 40_000  # characters: a fiftieth of them


def places(documents) -> list[int]:
    return [int(document.split()[0]) for document in documents]


@pytest.mark.parametrize("most_held", [2**24, SMALL, 1])
def test_every_document_comes_once_in_every_epoch(most_held: int):
    corpus = SKEWED[:300] if most_held == 1 else SKEWED
    order = DocumentOrder(lambda: corpus, seed=3, most_held=most_held)
    epochs = [places(order.epoch(number)) for number in range(2)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(len(corpus)))
    assert epochs[0] != epochs[1]
    assert order.n_documents == len(corpus)


def test_how_much_is_held_does_not_change_the_order():
    orders = [DocumentOrder(lambda: SKEWED, seed=3, most_held=n) for n in (2**24, SMALL)]
    assert list(orders[0].epoch(5)) == list(orders[1].epoch(5))


def test_the_seed_decides_the_order():
    def first(seed: int) -> list[int]:
        return places(DocumentOrder(lambda: SKEWED, seed=seed).epoch(0))[:50]

    assert first(1) == first(1)
    assert first(1) != first(2)


def test_the_first_documents_represent_the_corpus_in_length_and_in_place():
    order = DocumentOrder(lambda: SKEWED, seed=0, most_held=SMALL)
    first = np.array(places(islice(order.epoch(0), 400)))
    assert first.mean() == pytest.approx(1_000, abs=120)  # four standard errors
    assert np.bincount(first // 500).min() > 60  # of 100 from each quarter
    assert abs(np.corrcoef(first[1:], first[:-1])[0, 1]) < 0.2


def test_no_more_is_held_than_asked_for():
    alive: Counter[str] = Counter()

    class Text(str):
        def __new__(cls, text: str) -> "Text":
            alive["now"] += len(text)
            alive["most"] = max(alive["most"], alive["now"])
            return super().__new__(cls, text)

        def __del__(self) -> None:
            alive["now"] -= len(self)

    order = DocumentOrder(lambda: map(Text, SKEWED), seed=0, most_held=SMALL)
    for _ in order.epoch(0):
        pass
    assert SMALL // 2 < alive["most"] < SMALL + 3 * 2_000


def test_equal_documents_and_rows_of_tokens_are_no_trouble():
    rows = list(torch.ones(30, 4, dtype=torch.long))
    order = DocumentOrder(lambda: [*rows, *["same"] * 30], seed=0, most_held=500)
    assert sum(1 for _ in order.epoch(0)) == 60


def test_an_endless_corpus_is_represented_by_its_beginning():
    n_read = 0

    def endless() -> Iterator[str]:
        nonlocal n_read
        while True:
            n_read += 1
            yield "x" * 36

    order = DocumentOrder(endless, seed=0, most_read=10_000)
    assert sum(1 for _ in order.epoch(0)) == n_read == order.n_documents == 100


def test_an_empty_corpus_has_an_empty_order():
    assert list(DocumentOrder(lambda: [], seed=0).epoch(0)) == []
