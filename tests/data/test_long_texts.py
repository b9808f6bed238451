"""Texts longer than the context are split by default, in every verb that reads them in one pass."""

import inspect
from collections import Counter
from typing import Any

import pytest

import clvq_lens as cl
from clvq_lens.errors import ConfigError, DataError, TextTooLongError
from clvq_lens.host.host import Host
from clvq_lens.page.contents import gather
from tests.hosts import ALL_KINDS, FIRST_WORD, text_of, words

LENGTHS = (100, 3, 60, 20, 48)
TEXTS = [text_of(words(n, seed=n)) for n in LENGTHS]
LABELS = [["odd" if int(word[1:]) % 2 else "even" for word in text.split()] for text in TEXTS]
NOTICE = "Longer than the model's context of 48 tokens: 3 of 5 texts. They were split"


@pytest.fixture(scope="module", params=["bridge-gpt2", "bridge-bert"])
def lens(request: pytest.FixtureRequest) -> Any:
    kind = next(kind for kind in ALL_KINDS if kind.name == request.param)
    lens = kind.model().add_clvq(1, 2, n_codes=8, top_k=2, decoder="table")
    lens.fit(TEXTS, n_tokens=500, held_out_fraction=0.0, progress=False)
    return lens


def test_every_verb_that_reads_texts_piece_by_piece_splits_them_by_default():
    from clvq_lens.comparison.alignment import alignment
    from clvq_lens.comparison.collapse import collapse
    from clvq_lens.comparison.stability import stability
    from clvq_lens.evaluation.evaluate import evaluate
    from clvq_lens.flow.causal import causal_flow
    from clvq_lens.flow.observed import concept_flow

    verbs = (cl.Lens.encode, cl.Lens.concepts, cl.Lens.report, evaluate, gather)
    for verb in (*verbs, concept_flow, causal_flow, alignment, collapse, stability):
        assert inspect.signature(verb).parameters["long_texts"].default == "split", verb
    assert cl.FitConfig().long_texts == "split"


def test_a_fit_says_once_how_many_texts_it_split(lens: Any, caplog):
    other = lens.model.add_clvq(1, 2, n_codes=4, top_k=2, decoder="table", name="said")
    try:
        other.fit(TEXTS, n_tokens=2_000, held_out_fraction=0.0, progress=False)
    finally:
        other.remove()
    assert [NOTICE in record.getMessage() for record in caplog.records].count(True) == 1


def test_a_page_says_once_how_many_texts_it_split(lens: Any, caplog):
    labels = (iter(names) for names in LABELS)
    contents = gather(lens.attachment, iter(TEXTS), token_labels=labels, progress=False)
    assert [NOTICE in record.getMessage() for record in caplog.records] == [True]
    assert contents.evaluation.n_tokens == contents.concepts.n_tokens == sum(LENGTHS)
    assert contents.evaluation.n_documents == len(TEXTS)
    assert set(contents.layers[0].encoding.documents) == set(range(len(TEXTS)))


def test_labels_of_a_long_text_stay_with_their_tokens(lens: Any):
    """A word tells its label, so in each code the labels are those of its words."""
    encoding, table = lens.encode(TEXTS), lens.concepts(TEXTS, token_labels=LABELS, progress=False)
    expected: Counter[tuple[int, str]] = Counter()
    for code, token in zip(
        encoding.codes[encoding.mask].tolist(), encoding.tokens[encoding.mask].tolist(), strict=True
    ):
        assert token >= FIRST_WORD
        expected[code, "odd" if token % 2 else "even"] += 1
    found = {(c.code, label.text): label.count for c in table for label in c.token_labels}
    assert found == dict(expected)
    assert table.token_identity is not None
    assert table.token_identity.purity == 1.0


def test_evaluation_takes_labels_of_long_texts(lens: Any):
    report = lens.evaluate(TEXTS, token_labels=LABELS, progress=False)
    rows = {(row.method, row.tokens): row for row in report.recovery.rows}
    assert rows["token identity", "all"].purity == 1.0
    assert rows["codes", "all"].n_tokens == sum(LENGTHS)


def test_labels_of_a_long_text_that_are_too_few_are_refused(lens: Any):
    with pytest.raises(DataError, match="Document 0 has 100 real tokens and 99 labels"):
        lens.concepts(TEXTS, token_labels=[LABELS[0][1:], *LABELS[1:]], progress=False)


def test_labels_line_up_with_texts_among_which_some_are_empty(lens: Any):
    texts, labels = ["", *TEXTS[:2], " ", TEXTS[3]], [[], *LABELS[:2], [], LABELS[3]]
    table = lens.concepts(texts, token_labels=labels, progress=False)
    assert table.token_identity is not None
    assert table.token_identity.purity == 1.0
    assert set(lens.encode(texts).documents) == {1, 2, 4}
    assert lens.evaluate(texts, progress=False).n_documents == 3
    with pytest.raises(DataError, match="labels for 6 documents, but the data have no document 5"):
        lens.concepts(texts, token_labels=[*labels, LABELS[1]], progress=False)


def test_where_a_text_counts_as_a_whole_the_error_says_so(lens: Any, as_for_a_user):
    readout = cl.answers(["w7", "w9"])
    with pytest.raises(TextTooLongError, match=r"Pass long_texts='truncate', or cut the text\.$"):
        cl.salience(lens.model, TEXTS, 1, readout, progress=False)
    with pytest.raises(ConfigError, match="here a text counts as a whole"):
        cl.salience(lens.model, TEXTS, 1, readout, long_texts="split", progress=False)  # pyright: ignore
    with pytest.raises(TextTooLongError, match="Cut it: each text is read in one pass here"):
        cl.ablation_sweep(lens, TEXTS[0], cl.kl(), progress=False)
    with pytest.raises(TextTooLongError, match="Cut it"):
        cl.sentence_flow(lens.model, TEXTS[0])
    with pytest.raises(TextTooLongError, match=r"Pass long_texts='truncate', or cut the text\.$"):
        lens.faithfulness(TEXTS * 4, [0, 1, 0, 1, 0] * 4, readout=readout, progress=False)


def test_reading_one_long_text_is_linear_in_its_length(lens: Any, monkeypatch):
    """Every token passes the tokenizer once, and the model once but for what begins a piece."""
    host, n_ids = Host(lens.model), 0
    tokenize = type(host.vocabulary).tokenize

    def counted(self: Any, texts: list[str]) -> Any:
        nonlocal n_ids
        rows = tokenize(self, texts)
        n_ids += sum(map(len, rows))
        return rows

    monkeypatch.setattr(type(host.vocabulary), "tokenize", counted)
    text = text_of(words(20_000))
    encoding = lens.encode(text)
    assert int(encoding.mask.sum()) == 20_000
    assert n_ids < 20_010
