"""Texts: strings that nobody typed, and everything that may stand where texts are expected."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import clvq_lens as cl
from tests.hostile.conftest import PROFILE
from tests.hostile.subjects import N_CODES, VERBS, Subject
from tests.hostile.trial import WHOLE, Trial, shown
from tests.hostile.values import SCALARS, TEXTS, BrokenMiddle, broken, endless

GOOD = ["w5 w6 w7 w8", "w9 w10 w11 w5 w6", "w30 w31"]

# Containers of texts: named, as functions, because some can be read only once.
CONTAINERS: dict[str, Callable[[], Any]] = {
    "a string": lambda: "w5 w6 w7",
    "no texts": list,
    "a tuple": lambda: tuple(GOOD),
    "a set": lambda: set(GOOD),
    "a generator": lambda: (text for text in GOOD),
    "an empty generator": lambda: iter(()),
    "a map": lambda: map(str.upper, GOOD),
    "an array": lambda: np.array(GOOD),
    "an array of objects": lambda: np.array([*GOOD, None], dtype=object),
    "an array of one text": lambda: np.array("w5 w6 w7"),
    "an array of two axes": lambda: np.array([GOOD, GOOD]),
    "an array of bytes": lambda: np.array([b"w5 w6", b"w7"]),
    "a series": lambda: pd.Series(GOOD, index=[7, 7, -1]),
    "a series with a gap": lambda: pd.Series([*GOOD, None]),
    "categories": lambda: pd.Series(GOOD, dtype="category"),
    "a frame": lambda: pd.DataFrame({"text": GOOD}),
    "an empty frame": pd.DataFrame,
    "an index": lambda: pd.Index(GOOD),
    "rows": lambda: [{"text": text} for text in GOOD],
    "rows without texts": lambda: [{"body": text} for text in GOOD],
    "rows of None": lambda: [{"text": None}],
    "a mapping": lambda: {"text": GOOD},
    "keys": lambda: dict.fromkeys(GOOD).keys(),
    "nested lists": lambda: [GOOD, GOOD],
    "lists of words": lambda: [text.split() for text in GOOD],
    "bytes": lambda: b"w5 w6",
    "texts as bytes": lambda: [b"w5 w6", b"w7"],
    "a bytearray": lambda: bytearray(b"w5 w6"),
    "strings and numbers": lambda: ["w5 w6", 3, 4.5],
    "strings and None": lambda: ["w5 w6", None],
    "strings and NaN": lambda: ["w5 w6", float("nan")],
    "strings and tensors": lambda: ["w5 w6", torch.tensor([5, 6])],
    "tensors": lambda: [torch.tensor([5, 6, 7]), torch.tensor([8, 9])],
    "lists of ids": lambda: [[5, 6, 7], [8, 9, 10]],
    "numpy strings": lambda: [np.str_("w5 w6"), np.str_("w7")],
    "itself": lambda: (lambda texts: (texts.append(texts), texts)[1])([]),
    "the same text often": lambda: ["w5 w6 w7"] * 300,
    "many empty texts": lambda: [""] * 5_000,
    "one among empty texts": lambda: ["", " ", "w5 w6 w7", "\n"],
    "a broken source": broken,
    "a broken sequence": BrokenMiddle,
    "a file object": lambda: io.StringIO("w5 w6\nw7 w8 w9\n"),
    "a closed file": lambda: (lambda file: (file.close(), file)[1])(io.StringIO("w5 w6")),
    "a module": lambda: np,
    "a class": lambda: str,
    "a type variable": lambda: list[str],
    "a folder": lambda: Path("/"),
    "a missing file": lambda: Path("missing.txt"),
    "the name of a missing file": lambda: "missing.txt",
    "a path with NUL": lambda: Path("a\x00b.txt"),
    "a long path": lambda: "x" * 5_000 + ".txt",
}


def _tell(trial: Trial, subject: Subject, name: str, case: str, data: Callable[[], Any]) -> None:
    verb = VERBS[name]

    def call() -> tuple[Any, Any]:
        given_data = data()
        return given_data, verb.call(subject, given_data)

    trial.run(
        f"{name} of {case}, {subject.kind}",
        call,
        lambda result: verb.check(subject, *result),
    )


def test_any_string_is_read_or_refused(trial, subject, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cases = [(name, text) for text in TEXTS for name in VERBS]
    for name, text in trial.some(cases, in_ci=36):
        _tell(trial, subject, name, shown(text), lambda text=text: [text])


def test_strings_beside_good_ones_change_nothing_for_those(trial, subject):
    alone = subject.lens.encode(GOOD)

    def check(encoding: "cl.Encoding") -> None:
        for row, document in enumerate(encoding.documents):
            real = encoding.codes[row][encoding.mask[row]]
            if document < len(GOOD):
                assert real.equal(alone.codes[document][alone.mask[document]])

    for text in trial.some(TEXTS, in_ci=8):
        texts = [*GOOD, text]
        trial.run(
            f"encode of good texts and {shown(text)}",
            lambda texts=texts: subject.lens.encode(texts, long_texts="truncate"),
            check,
        )


def test_any_container_is_read_or_refused(trial, subject, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cases = [(name, case) for case in CONTAINERS for name in VERBS]
    for name, case in trial.some(cases, in_ci=36):
        _tell(trial, subject, name, case, CONTAINERS[case])


def test_scalars_are_no_texts(trial, subject, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cases = [(name, value) for value in SCALARS for name in ("encode", "fit", "flow", "sweep")]
    for name, value in trial.some(cases, in_ci=16):
        _tell(trial, subject, name, shown(value), lambda value=value: value)


def test_fits_end_on_endless_texts(trial, subject):
    for decoder in ("table", "mlp", "transformer") if WHOLE else ("table",):
        lens = subject.new_lens(decoder=decoder)
        trial.run(
            f"fit of endless texts, {decoder}",
            lambda lens=lens: (
                lens.fit(endless(), n_tokens=200, batch_tokens=64, progress=False),
                lens.remove(),
            ),
        )
        lens.remove()


@pytest.mark.parametrize("how", ["split", "truncate"])
def test_long_texts_are_cut_and_not_lost(trial, subject, how):
    for n_words in (1, 46, 47, 48, 49, 95, 96, 97, 500) if WHOLE else (47, 48, 49, 97):
        text = " ".join(f"w{5 + n % 35}" for n in range(n_words))

        def check(encoding: "cl.Encoding", n_words: int = n_words) -> None:
            assert encoding.documents[0] == 0
            ids = encoding.tokens[1:][encoding.mask[1:]].tolist()
            kept = len(ids)
            assert kept == n_words or (how == "truncate" and kept in range(45, 49))
            assert ids == [5 + n % 35 for n in range(n_words)][:kept], "tokens are out of order"

        trial.run(
            f"encode of {n_words} words, {how}",
            lambda text=text: subject.lens.encode(["w5", text], long_texts=how),
            check,
        )


_WORDS = st.sampled_from(["w5", "w6", "w39", "<|end|>", "[SEP]", "[CLS]", "?", "\ud800", "漢"])
_STRINGS = st.one_of(
    st.text(max_size=40),
    st.text(st.characters(categories=["Cs", "Cc", "Cf", "Mn", "Zs", "So"]), max_size=30),
    st.lists(_WORDS, max_size=60).map(" ".join),
)


def test_generated_texts(trial, subject, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    quick = [name for name, verb in VERBS.items() if not verb.is_slow]

    @PROFILE
    @given(texts=st.lists(_STRINGS, max_size=6), name=st.sampled_from(quick))
    def search(texts: list[str], name: str) -> None:
        _tell(trial, subject, name, shown(texts), lambda: list(texts))

    search()


def test_the_usage_of_a_fit_counts_its_tokens(trial, subject):
    """Whatever else is in the corpus, statistics are of real tokens."""
    for texts in ([*GOOD * 20, "<|end|> [SEP] [CLS]"], [*GOOD * 20, "\x00 \u200b"]):
        trial.run(
            f"fit of {shown(texts)}",
            lambda texts=texts: VERBS["fit"].call(subject, texts),
            lambda result: _total_usage(*result),
        )


def _total_usage(history: Any, quantizer: Any) -> None:
    assert 0 < float(quantizer.usage.sum()) < 10_000
    assert len(quantizer.usage) <= N_CODES
