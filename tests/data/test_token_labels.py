import pytest

import clvq_lens as cl
from clvq_lens.data.token_labels import DocumentLabels
from clvq_lens.errors import DataError
from clvq_lens.host.vocabulary import Vocabulary


def test_labels_are_those_of_the_document():
    labels = DocumentLabels([["a"], ["b", "c"]])
    assert labels.of(1, 2) == ["b", "c"]
    with pytest.raises(DataError, match="labels for 2 documents, but the data have no document 0"):
        labels.check_all_used()
    labels.of(0, 1)
    labels.check_all_used()


def test_the_labels_of_an_empty_text_are_an_empty_list():
    labels = DocumentLabels([[], ["a"], []])
    assert labels.of(1, 1) == ["a"]
    labels.check_all_used()


def test_labels_may_come_from_generators():
    labels = DocumentLabels((label for label in names) for names in (["a"], ["b", "c"]))
    assert labels.of(1, 2) == ["b", "c"]
    assert labels.of(0, 1) == ["a"]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([["a"], ["b", None]], "Label 1 of document 1 is None, expected a string"),
        ([["a", float("nan")]], "Label 1 of document 0 is nan, expected a string"),
        ([["a", 3]], "Label 1 of document 0 is 3, expected a string"),
        ([["a"], None], "labels of document 1 are NoneType"),
        (["NOUN"], "labels of document 0 are str"),
        ("NOUN", "labels are str"),
        (None, "labels are NoneType"),
    ],
)
def test_labels_that_are_no_strings_are_refused_at_once(as_for_a_user, labels, message: str):
    with pytest.raises(DataError, match=message):
        DocumentLabels(labels)


@pytest.mark.parametrize(("document", "n_tokens"), [(0, 2), (1, 1), (2, 1)])
def test_as_many_labels_as_real_tokens_are_needed(document: int, n_tokens: int):
    with pytest.raises(DataError, match=f"Document {document} has {n_tokens} real tokens"):
        DocumentLabels([["a"], ["b", "c"]]).of(document, n_tokens)


def spans_of(words: list[tuple[str, str]]) -> tuple[str, list[tuple[int, int, str]]]:
    text, spans = "", []
    for word, label in words:
        text += " " if text else ""
        spans.append((len(text), len(text) + len(word), label))
        text += word
    return text, spans


def test_every_piece_of_a_word_has_the_label_of_the_word(stories_model):
    """A tokenizer that cuts most words into pieces."""
    words = [("Lily", "NAME"), ("extraordinarily", "ADV"), ("jumped", "VERB"), (".", "PUNCT")]
    text, spans = spans_of(words)
    labels = cl.token_labels(stories_model, [text], [spans])[0]
    vocabulary = Vocabulary(stories_model)
    strings = vocabulary.strings(vocabulary.tokenize([text])[0])[1:]  # BOS has no label
    assert len(labels) == len(strings)
    assert len(labels) > len(words)
    for word, label in words:
        pieces = [s for s, found in zip(strings, labels, strict=True) if found == label]
        assert "".join(pieces).strip() == word


def test_labels_of_tokens_fit_the_concept_table(stories_model, stories):
    texts = [story[:200] for story in stories[:20]]
    spans = [
        [(0, len(text) // 2, "first"), (len(text) // 2, len(text), "second")] for text in texts
    ]
    labels = cl.token_labels(stories_model, texts, spans)
    lens = stories_model.add_clvq(1, 2, n_codes=8, top_k=2, decoder="table", name="labels")
    try:
        lens.fit(texts, n_tokens=1_000, progress=False)
        agreement = lens.concepts(texts, token_labels=labels, progress=False).agreement
    finally:
        lens.remove()
    assert agreement.n_labels == 2


def test_a_token_that_touches_no_span_is_outside(toy):
    labels = cl.token_labels(toy.model, ["we met two men"], [[(3, 6, "VERB")]])
    assert labels == [["none", "VERB", "none", "none"]]
    labels = cl.token_labels(toy.model, ["we met"], [[]], outside="O")
    assert labels == [["O", "O"]]


def test_a_token_takes_the_label_it_shares_most_characters_with(toy):
    labels = cl.token_labels(toy.model, ["together we"], [[(0, 2, "a"), (2, 8, "b"), (8, 11, "c")]])
    assert labels == [["b", "c"]]


def test_as_many_lists_of_spans_as_texts_are_needed(toy):
    with pytest.raises(DataError, match="2 texts and 1 lists of spans"):
        cl.token_labels(toy.model, ["we", "we"], [[]])


def test_a_model_without_a_fast_tokenizer_is_refused(model):
    with pytest.raises(DataError, match="use_fast=True"):
        cl.token_labels(model, ["we"], [[]])


def test_spans_may_come_from_generators(toy):
    spans = (iter([(3, 6, "VERB")]) for _ in range(1))
    texts = (text for text in ["we met two men"])
    assert cl.token_labels(toy.model, texts, spans) == [["none", "VERB", "none", "none"]]


@pytest.mark.parametrize(
    ("texts", "spans", "message"),
    [
        (["we"], [[(0, 2, None)]], "label of a span of text 0 is None"),
        (["we"], [[(0, 2, float("nan"))]], "label of a span of text 0 is nan"),
        (["we"], [[(0, "2", "a")]], r"A span of text 0 is \(0, '2', 'a'\)"),
        (["we"], [[(0, 2)]], r"A span of text 0 is \(0, 2\)"),
        (["we"], [None], "spans of text 0 are None"),
        (["we", None], [[], []], "Text 1 is NoneType"),
        (["we \ud800"], [[]], "Text 0 has half a character"),
        ("we", [[], []], "texts are str"),
    ],
)
def test_texts_and_spans_that_are_none_are_refused(toy, as_for_a_user, texts, spans, message: str):
    with pytest.raises(DataError, match=message):
        cl.token_labels(toy.model, texts, spans)


def test_labels_of_one_long_text_take_time_linear_in_its_length(toy, monkeypatch):
    from clvq_lens.data import token_labels as module

    n_looked_at, one = 0, module._label_of_token

    def counted(start: int, end: int, spans: list, outside: str) -> str:
        nonlocal n_looked_at
        n_looked_at += len(spans)
        return one(start, end, spans, outside)

    monkeypatch.setattr(module, "_label_of_token", counted)
    words = ["we", "met", "two", "men"] * 500
    text, spans = spans_of([(word, word) for word in words])
    assert cl.token_labels(toy.model, [text], [spans[::-1]]) == [words]  # in any order
    assert n_looked_at <= 2 * len(words)
