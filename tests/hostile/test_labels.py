"""Labels: of tokens, of texts, of codes; what judges and naming functions return."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from hypothesis import given
from hypothesis import strategies as st

import clvq_lens as cl
from tests.hostile.conftest import PROFILE
from tests.hostile.subjects import N_CODES, Subject, finite
from tests.hostile.trial import shown
from tests.hostile.values import SCALARS, TEXTS

TEXTS_READ = ["w5 w6 w7 w8", "w9 w10", "w30 w31 w32 w5 w6"]
N_REAL = [4, 2, 5]
DOCUMENTS = [f"w{5 + n} w6 w{30 + n % 3} w{9 + n}" for n in range(12)]
CLASSES = [n % 2 for n in range(12)]
FAITHFULNESS = {
    **{"n_folds": 2, "n_draws": 1, "n_model_draws": 1, "n_steps": 2},
    "progress": False,
}


def _of_tokens(label: Any) -> list[list[Any]]:
    return [[label] * n for n in N_REAL]


def _mixed(*labels: Any) -> list[list[Any]]:
    flat = [labels[index % len(labels)] for index in range(sum(N_REAL))]
    return [flat[:4], flat[4:6], flat[6:]]


TOKEN_LABELS: dict[str, Callable[[], Any]] = {
    "good ones": lambda: _mixed("a", "b"),
    "one label": lambda: _of_tokens("a"),
    "each its own": lambda: _mixed(*map(str, range(11))),
    "numbers": lambda: _mixed(0, 1),
    "numbers and strings": lambda: _mixed(0, "a"),
    "None": lambda: _of_tokens(None),
    "None and strings": lambda: _mixed(None, "a"),
    "NaN and strings": lambda: _mixed(float("nan"), "a"),
    "NaN": lambda: _of_tokens(float("nan")),
    "bytes": lambda: _mixed(b"a", b"b"),
    "tuples": lambda: _mixed(("a", 1), ("b", 2)),
    "lists": lambda: _mixed(["a"], ["b"]),
    "tensors": lambda: [torch.zeros(n, dtype=torch.long) for n in N_REAL],
    "arrays": lambda: [np.array(["a"] * n) for n in N_REAL],
    "series": lambda: [pd.Series(["a"] * n, index=range(7, 7 + n)) for n in N_REAL],
    "a frame": lambda: pd.DataFrame({"a": [1, 2, 3]}),
    "a mapping": lambda: dict(enumerate(_of_tokens("a"))),
    "a generator": lambda: iter(_of_tokens("a")),
    "generators": lambda: [iter(["a"] * n) for n in N_REAL],
    "strings": lambda: ["aaaa", "bb", "ccccc"],
    "a string": lambda: "abc",
    "too few documents": lambda: _of_tokens("a")[:2],
    "too many documents": lambda: [*_of_tokens("a"), ["a"]],
    "too few tokens": lambda: [["a"] * 3, ["a"] * 2, ["a"] * 5],
    "too many tokens": lambda: [["a"] * 5, ["a"] * 2, ["a"] * 5],
    "a flat list": lambda: ["a"] * sum(N_REAL),
    "no documents": list,
    "empty documents": lambda: [[], [], []],
    "an array of two axes": lambda: np.full((3, 4), "a"),
    "surrogates": lambda: _mixed("\ud800", "\udfff"),
    "markup": lambda: _mixed("</script><b>", "{{ a }}"),
    "empty strings": lambda: _mixed("", " "),
    "long ones": lambda: _mixed("x" * 100_000, "y"),
    "newlines": lambda: _mixed("a\nb", "\x00", "\u202e"),
    "objects": lambda: _mixed(object(), int),
    "booleans": lambda: _mixed(True, False),
    "numpy strings": lambda: _mixed(np.str_("a"), np.str_("b")),
    "numpy numbers": lambda: _mixed(np.int64(1), np.float32(0.5)),
    "the reserved word": lambda: _mixed("none", "other"),
}

LABELLED: dict[str, Callable[[Subject, Any], Any]] = {
    "evaluate": lambda s, labels: s.lens.evaluate(
        TEXTS_READ, token_labels=labels, progress=False
    ).frame(),
    "concepts": lambda s, labels: (lambda table: (table.frame(), repr(table), table.agreement))(
        s.lens.concepts(TEXTS_READ, token_labels=labels, n_examples=2, progress=False)
    ),
    "flow": lambda s, labels: (lambda flow: (flow.frame(), flow.agreement(), flow.plot()))(
        cl.concept_flow(s.model, TEXTS_READ, token_labels=labels, progress=False)
    ),
    "alignment": lambda s, labels: (lambda found: (found.frame(), found.plot()))(
        cl.alignment(s.lens, TEXTS_READ, labels, min_tokens=1, n_shuffles=2)
    ),
    "compare": lambda s, labels: cl.compare(
        [s.lens], TEXTS_READ, token_labels=labels, progress=False
    ).frame(),
    "report": lambda s, labels: s.lens.report(
        TEXTS_READ, "labels.html", token_labels=labels, n_examples=1, progress=False
    ),
}


def test_labels_of_tokens(trial, subject, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, case in trial.some([(n, c) for c in TOKEN_LABELS for n in LABELLED], in_ci=24):
        trial.run(
            f"{name} with labels of tokens: {case}, {subject.kind}",
            lambda name=name, case=case: LABELLED[name](subject, TOKEN_LABELS[case]()),
        )


def test_scalars_as_labels(trial, subject, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ("evaluate", "concepts", "flow", "alignment")
    for name, value in trial.some([(n, v) for v in SCALARS for n in names], in_ci=8):
        for how, labels in (("labels", value), ("a label", _mixed(value, "a"))):
            trial.run(
                f"{name} with {shown(value)} as {how}, {subject.kind}",
                lambda name=name, labels=labels: LABELLED[name](subject, labels),
            )


# ---- labels of texts -----------------------------------------------------------------------------

TEXT_LABELS: dict[str, Callable[[], Any]] = {
    "good ones": lambda: CLASSES,
    "strings": lambda: ["a", "b"] * 6,
    "booleans": lambda: [True, False] * 6,
    "a generator": lambda: iter(CLASSES),
    "an array": lambda: np.array(CLASSES),
    "a tensor": lambda: torch.tensor(CLASSES),
    "a series": lambda: pd.Series(CLASSES, index=range(12, 0, -1)),
    "categories": lambda: pd.Categorical(["a", "b"] * 6),
    "floats": lambda: [0.0, 1.0] * 6,
    "None": lambda: [None] * 12,
    "None and a class": lambda: [None, 1] * 6,
    "NaN and a class": lambda: [float("nan"), 1] * 6,
    "NaN": lambda: [float("nan")] * 12,
    "mixed kinds": lambda: [0, "a"] * 6,
    "three mixed kinds": lambda: [0, "a", 1.5, (1,)] * 3,
    "one class": lambda: [1] * 12,
    "all classes once": lambda: list(range(12)),
    "a rare class": lambda: [0] * 11 + [1],
    "lists": lambda: [[0], [1]] * 6,
    "dicts": lambda: [{"a": 0}, {"a": 1}] * 6,
    "tensors in a list": lambda: [torch.tensor(0), torch.tensor(1)] * 6,
    "arrays in a list": lambda: [np.array([0]), np.array([1])] * 6,
    "numpy numbers": lambda: [np.int64(0), np.int64(1)] * 6,
    "too few": lambda: CLASSES[:11],
    "too many": lambda: [*CLASSES, 0],
    "none at all": list,
    "two axes": lambda: np.array(CLASSES).reshape(12, 1),
    "a string": lambda: "ababababab" + "ab",
    "bytes": lambda: [b"a", b"b"] * 6,
    "huge numbers": lambda: [2**70, -(2**70)] * 6,
    "surrogates": lambda: ["\ud800", "\udfff"] * 6,
    "objects": lambda: [object() for _ in range(12)],
    "a number": lambda: 3,
    "nothing": lambda: None,
    "a mapping": lambda: dict.fromkeys(range(12), 0),
}


def test_labels_of_texts(trial, subject):
    verbs: dict[str, Callable[[Any], Any]] = {
        "faithfulness": lambda labels: subject.lens.faithfulness(DOCUMENTS, labels, **FAITHFULNESS),
        "the published protocol": lambda labels: subject.lens.faithfulness(
            DOCUMENTS, labels, protocol="paper", **FAITHFULNESS
        ),
        "documents": lambda documents: subject.lens.faithfulness(
            DOCUMENTS, CLASSES, documents=documents, **FAITHFULNESS
        ),
        "compare": lambda labels: cl.compare([subject.lens], DOCUMENTS, labels, **FAITHFULNESS),
    }

    def read(verb: str, case: str) -> None:
        found = verbs[verb](TEXT_LABELS[case]())
        found.frame()
        repr(found)

    for verb, case in trial.some([(v, c) for c in TEXT_LABELS for v in verbs], in_ci=4):
        trial.run(
            f"{verb} with labels of texts: {case}, {subject.kind}",
            lambda verb=verb, case=case: read(verb, case),
        )


def test_texts_of_faithfulness(trial, subject):
    for text in trial.some(TEXTS, in_ci=2):
        trial.run(
            f"faithfulness of a text: {shown(text)}, {subject.kind}",
            lambda text=text: subject.lens.faithfulness(
                [*DOCUMENTS[:-1], text], CLASSES, **FAITHFULNESS
            ).frame(),
        )


# ---- words of a text -----------------------------------------------------------------------------

_CHARACTERS = st.integers(-3, 15) | st.sampled_from([2**70, -(2**70)])
_ODD = st.sampled_from([None, 1.5, float("nan"), "a", b"a", [], np.int64(2), True])
_SPANS = st.tuples(_CHARACTERS | _ODD, _CHARACTERS | _ODD, st.text(max_size=3) | _ODD) | st.tuples(
    _CHARACTERS, _CHARACTERS
)


def test_generated_spans(trial, subject):
    @PROFILE
    @given(
        spans=st.lists(st.lists(_SPANS, max_size=4), max_size=3),
        text=st.sampled_from(["w5 w6 w7", "", "\ud800", "漢字 w5", "w5 " * 60]),
    )
    def search(spans: list[list[Any]], text: str) -> None:
        texts = [text, "w9 w10", "w5 \t w6"]

        def check(labels: Any) -> None:
            assert len(labels) == len(texts)
            assert all(isinstance(label, str) for each in labels for label in each)
            real = subject.lens.encode(texts, long_texts="truncate")
            for row, document in zip(real.mask, real.documents, strict=True):
                if document and text:
                    assert len(labels[document]) == int(row.sum()) or len(text) > 100

        trial.run(
            f"token_labels of {shown(text)} with spans {shown(spans)}, {subject.kind}",
            lambda: cl.token_labels(subject.model, texts, spans),
            check,
        )

    search()


def test_scalars_as_spans(trial, subject):
    texts = ["w5 w6 w7"]
    for value in trial.some(SCALARS, in_ci=6):
        for how, call in {
            "spans": lambda value=value: cl.token_labels(subject.model, texts, value),
            "spans of a text": lambda value=value: cl.token_labels(subject.model, texts, [value]),
            "a span": lambda value=value: cl.token_labels(subject.model, texts, [[value]]),
            "a label": lambda value=value: cl.token_labels(subject.model, texts, [[(0, 2, value)]]),
            "outside": lambda value=value: cl.token_labels(
                subject.model, texts, [[]], outside=value
            ),
            "texts": lambda value=value: cl.token_labels(subject.model, value, [[]]),
            "the model": lambda value=value: cl.token_labels(value, texts, [[]]),
        }.items():
            trial.run(f"token_labels with {shown(value)} as {how}, {subject.kind}", call)


# ---- names of codes ------------------------------------------------------------------------------


@functools.cache
def _table(subject: Subject) -> "cl.ConceptTable":
    return subject.lens.concepts(TEXTS_READ * 10, n_examples=6, progress=False)


def test_names_of_codes(trial, subject):
    table, encoding = _table(subject), subject.lens.encode(TEXTS_READ)
    flow = cl.concept_flow(subject.model, TEXTS_READ, progress=False)
    sweep = cl.ablation_sweep(subject.lens, TEXTS_READ[0], cl.kl(), progress=False)
    takers: dict[str, Callable[[Any], Any]] = {
        "table.named": lambda value: table.named(lambda examples: value).frame(),
        "encoding.plot": lambda value: encoding.plot(0, value),
        "encoding.plot(row)": lambda value: encoding.plot(value),
        "plot_codebook": lambda value: subject.lens.plot_codebook(value),
        "flow.plot": lambda value: flow.plot(value),
        "sweep.frame": lambda value: sweep.frame(value),
        "detection": lambda value: cl.detection(table, names=value, n_contexts=4),
        "table[...]": lambda value: table[value],
    }
    for value in trial.some(SCALARS, in_ci=4):
        for taker, call in takers.items():
            trial.run(
                f"{taker} with {shown(value)}, {subject.kind}",
                lambda call=call, value=value: call(value),
            )
        for taker in ("encoding.plot", "plot_codebook", "flow.plot", "sweep.frame", "detection"):
            trial.run(
                f"{taker} with {shown(value)} as the name of each code, {subject.kind}",
                lambda taker=taker, value=value: takers[taker](
                    dict.fromkeys(range(N_CODES), value)
                ),
            )


def test_judges(trial, subject):
    table = _table(subject)
    answers: dict[str, Callable[[str, Any], Any]] = {
        **{f"{shown(value)}": lambda label, contexts, value=value: value for value in SCALARS},
        "too few": lambda label, contexts: [True] * (len(contexts) - 1),
        "too many": lambda label, contexts: [True] * (len(contexts) + 1),
        "scores": lambda label, contexts: [0.5] * len(contexts),
        "None each": lambda label, contexts: [None] * len(contexts),
        "words": lambda label, contexts: ["yes"] * len(contexts),
        "an array": lambda label, contexts: np.ones(len(contexts), dtype=bool),
        "a tensor": lambda label, contexts: torch.ones(len(contexts), dtype=torch.bool),
        "a generator": lambda label, contexts: (True for _ in contexts),
    }

    def check(found: "cl.Detection") -> None:
        finite(found.frame().select_dtypes("number"), nan=True)

    for name in trial.some(list(answers), in_ci=8):
        trial.run(
            f"detection by a judge that returns {name}, {subject.kind}",
            lambda name=name: cl.detection(table, answers[name], n_contexts=4),
            check,
        )
