"""What of a flow is drawn: nodes in groups, and the neighborhood of one code."""

import inspect

import numpy as np
import pytest

import clvq_lens as cl
from clvq_lens.errors import ConfigError, DataError
from clvq_lens.flow.grouping import focused, grouping
from clvq_lens.flow.word_classes import WORD_CLASSES, WordClasses
from clvq_lens.host.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def toy_flow(toy):
    lens = toy.model.add_clvq(1, 2, n_codes=16)
    try:
        lens.fit(toy.texts[:60], n_tokens=2_000, progress=False)
        texts = toy.texts[:20]
        labels = [["a" if n % 3 else "b" for n in range(len(text.split()))] for text in texts]
        flow = cl.concept_flow(toy.model, texts, token_labels=labels, progress=False)
        encoding = lens.encode(texts)
    finally:
        lens.remove()
    return flow, encoding


class Words(Vocabulary):
    """Stands in for that of a model: a token is its name."""

    def __init__(self) -> None: ...

    names_of_all = (
        *(" the", " Mary", "When", "ing", " 12", ",", " \u2014", "\n", "\u27e8E6\u27e9"),
        *(" a", " of", " to", " in", " is"),
    )

    def names(self, tokens):
        return [self.names_of_all[token] for token in tokens.tolist()]


def test_tokens_fall_into_classes_by_what_they_look_like():
    classes = WordClasses(Words(), 14).of(np.arange(10))
    assert [WORD_CLASSES[number] for number in classes] == [
        *("words", "capitalized", "capitalized", "word pieces", "numbers"),
        *("punctuation", "punctuation", "white space", "bytes", "words"),
    ]


def test_a_code_is_of_the_class_of_most_of_its_tokens(toy_flow):
    flow, encoding = toy_flow
    classes = flow.groups["word_classes"]
    assert set(classes) == {"token", "1-2", "prediction"}
    for code in flow.stages[1].nodes.tolist():
        tokens = encoding.tokens[encoding.codes == code].tolist()
        of_tokens = [classes["token"][token] for token in tokens]
        most = max(of_tokens.count(name) for name in set(of_tokens))
        assert of_tokens.count(classes["1-2"][code]) == most


def test_a_node_is_in_the_group_of_its_commonest_label(toy_flow):
    flow, encoding = toy_flow
    code = int(flow.stages[1].nodes[0])
    labels = []
    for row in range(20):
        codes = encoding.codes[row][encoding.mask[row]].tolist()
        labels += ["a" if n % 3 else "b" for n, found in enumerate(codes) if found == code]
    found = flow.groups["token_labels"]["1-2"][code]
    assert labels.count(found) * 2 >= len(labels)
    assert set(flow.groups["token_labels"]) == {"token", "1-2", "prediction"}


def test_groups_alone_leave_no_other(toy_flow):
    flow, _ = toy_flow
    for by in ("word_classes", "token_labels"):
        texts = [note.text for note in flow.plot(n_nodes=0, by=by).layout.annotations]
        assert not any(text.startswith("other") for text in texts)
    names = {code: f"name {code % 2}" for code in range(16)}
    texts = [note.text for note in flow.plot(names, n_nodes=0, by="names").layout.annotations]
    assert {text[:6] for text in texts} >= {"name 0", "name 1"}


def test_a_focus_shows_all_tokens_of_one_code_and_no_others(toy_flow):
    flow, encoding = toy_flow
    code = int(flow.stages[1].nodes[flow.stages[1].n_tokens.argmax()])
    paths, counts = flow.path_nodes, flow.path_counts
    frame = focused(flow.stages, paths, counts, stage="1-2", code=code)
    n_tokens = int((encoding.codes == code).sum())
    assert frame.groupby("source")["count"].sum().tolist() == [n_tokens, n_tokens]
    assert set(frame[frame["source"] == "token"]["next_code"]) == {code}
    tokens = encoding.tokens[encoding.codes == code].unique().tolist()
    assert sorted(frame[frame["source"] == "token"]["code"]) == tokens
    figure = flow.plot(focus=code)
    assert figure.layout.title.text == f"Flow through code {code} of 1-2: {n_tokens:,} tokens"


def test_a_code_has_the_color_of_its_codebook(toy_flow):
    flow, encoding = toy_flow
    assert flow.colors["1-2"] == encoding.colors
    assert len(set(encoding.colors)) == 16


def test_refusals(toy_flow):
    flow, _ = toy_flow
    with pytest.raises(ConfigError, match=r"by is 'kinds'. Pass 'word_classes', 'token_labels',"):
        inspect.unwrap(grouping)("kinds", {}, {})  # types are checked in tests only
    with pytest.raises(DataError, match="computed without labels"):
        grouping("token_labels", {}, {})
    with pytest.raises(ConfigError, match="No token of this flow passes through code 99"):
        flow.plot(focus=99)
    with pytest.raises(ConfigError, match=r"the quantizers are \['1-2'\]"):
        flow.plot(focus=("9-9", 1))
