from dataclasses import replace

import numpy as np

from clvq_lens.concepts.concept import Concept, Example
from clvq_lens.concepts.kept_back import kept_back_examples, shown_examples
from tests.concepts.test_table import concept as a_concept


def example(document: int, text: str = "") -> Example:
    return Example(document, 0, text or f"text {document} ", "cat", "", 0.0, 0.0)


def concept(code: int, documents: range, text: str = "") -> Concept:
    random = tuple(example(document, text) for document in documents)
    return replace(a_concept(code), typical=(), random=random)


def documents_of(examples: tuple[Example, ...]) -> set[int]:
    return {example.document for example in examples}


def test_no_document_is_both_shown_and_kept_back_whatever_its_codes():
    concepts = [concept(0, range(0, 60)), concept(1, range(30, 90))]
    concepts[1] = replace(concepts[1], typical=tuple(example(i) for i in range(20)))
    shown: set[int] = set()
    kept_back: set[int] = set()
    for each in concepts:
        shown |= documents_of(shown_examples(each))
    for examples in kept_back_examples(concepts).values():
        kept_back |= documents_of(examples)
    assert shown | kept_back == set(range(90))
    assert not shown & kept_back


def test_one_of_two_documents_in_a_row_is_kept_back_by_a_coin():
    shown = documents_of(shown_examples(concept(0, range(400))))
    is_shown = np.array([document in shown for document in range(400)]).reshape(-1, 2)
    assert (is_shown.sum(1) == 1).all()
    assert 0.4 < is_shown[:, 0].mean() < 0.6  # documents may take turns: this is no parity


def test_a_context_that_reads_the_same_as_one_that_is_shown_is_not_kept_back():
    assert len(kept_back_examples([concept(0, range(20))])[0]) == 10
    assert kept_back_examples([concept(0, range(20), "once upon a ")])[0] == ()
    # Another code of which the same text is shown is enough, and spaces make no difference.
    both = [concept(0, range(20), "once upon a "), concept(1, range(20))]
    same = replace(both[1].random[0], before=" once upon a ", document=20)
    also = replace(same, document=21)
    both[1] = replace(both[1], random=(*both[1].random, same, also))
    assert len(kept_back_examples(both)[1]) == 10


def test_a_code_of_which_nothing_is_shown_has_nothing_to_judge():
    shown = documents_of(shown_examples(concept(0, range(20))))
    hidden = next(document for document in range(20) if document not in shown)
    alone = concept(1, range(hidden, hidden + 1))
    assert shown_examples(alone) == ()
    assert kept_back_examples([concept(0, range(20)), alone])[1] == ()
