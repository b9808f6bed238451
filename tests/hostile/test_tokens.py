"""Tokens: tensors of every dtype and shape, ids that are none, padding on either side."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import clvq_lens as cl
from tests.hostile.conftest import PROFILE
from tests.hostile.subjects import VERBS, Subject
from tests.hostile.trial import Trial, shown
from tests.hosts import D_VOCAB, words

_INTEGERS = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64)
_OTHERS = (
    *(torch.bool, torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64),
    *(torch.uint16, torch.uint32, torch.uint64),
)


def _tensors() -> dict[str, Callable[[], Any]]:
    """Tensors and what looks like them, by name."""
    cases: dict[str, Callable[[], Any]] = {}
    for dtype in (*_INTEGERS, *_OTHERS):
        cases[f"{dtype}"] = lambda dtype=dtype: words(3, 6).to(dtype)
    for shape in ((), (1,), (6,), (0,), (0, 5), (5, 0), (1, 1), (3, 1), (2, 3, 4), (1, 2, 3, 4)):
        cases[f"shape {shape}"] = lambda shape=shape: words(*shape)
    for length in (47, 48, 49, 200):
        cases[f"{length} long"] = lambda length=length: words(2, length)
    for wrong in (-1, -2, D_VOCAB, D_VOCAB + 1, 10**6, 2**31, 2**63 - 1, -(2**63)):
        for place in ((0, 0), (1, 3), (2, 5)):
            cases[f"id {wrong} at {place}"] = lambda wrong=wrong, place=place: _with(wrong, place)
    cases |= {
        "a transposed one": lambda: words(6, 3).T,
        "every second column": lambda: words(3, 12)[:, ::2],
        "an expanded one": lambda: words(1, 6).expand(4, 6),
        "a flipped one": lambda: words(3, 6).flip(1),
        "an inference tensor": lambda: _in_inference(words(3, 6)),
        "a sparse one": lambda: words(3, 6).to_sparse(),
        "one on meta": lambda: words(3, 6).to("meta"),
        "a nested one": lambda: torch.nested.nested_tensor([words(3), words(5)]),
        "a parameter": lambda: torch.nn.Parameter(words(3, 6), requires_grad=False),
        "a view of floats": lambda: words(3, 6).double().view(torch.int64),
        "an array": lambda: words(3, 6).numpy(),
        "an array of int32": lambda: words(3, 6).numpy().astype(np.int32),
        "a list of rows": lambda: words(3, 6).tolist(),
        "a list of tensors": lambda: list(words(3, 6)),
        "a list of ids": lambda: words(6).tolist(),
        "ragged rows": lambda: [[5, 6], [7, 8, 9]],
        "what a tokenizer gives": lambda: {"input_ids": words(3, 6)},
        "only special ones": lambda: torch.zeros(3, 6, dtype=torch.long),
        "one real token": lambda: torch.cat([words(1, 1), torch.zeros(1, 5).long()], 1),
        "all ids": lambda: torch.arange(D_VOCAB).unsqueeze(0),
        "one id": lambda: torch.full((3, 6), 7),
        "many rows": lambda: words(700, 3),
    }
    return cases


def _with(wrong: int, place: tuple[int, int]) -> Tensor:
    tokens = words(3, 6)
    tokens[place] = wrong
    return tokens


def _in_inference(tokens: Tensor) -> Tensor:
    with torch.inference_mode():
        return tokens.clone()


TENSORS = _tensors()


def _tell(trial: Trial, subject: Subject, name: str, case: str, data: Callable[[], Any]) -> None:
    verb = VERBS[name]

    def call() -> tuple[Any, Any]:
        tokens = data()
        before = tokens.clone() if isinstance(tokens, Tensor) else None
        result = verb.call(subject, tokens)
        if before is not None and not (before.is_sparse or before.is_meta or before.is_nested):
            assert torch.equal(before, tokens), "the tokens that were passed have changed"
        return tokens, result

    trial.run(
        f"{name} of tokens: {case}, {subject.kind}",
        call,
        lambda result: verb.check(subject, *result),
    )


def test_any_tensor_is_read_or_refused(trial, subject, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cases = [(name, case) for case in TENSORS for name in VERBS]
    for name, case in trial.some(cases, in_ci=40):
        _tell(trial, subject, name, case, TENSORS[case])


def test_ids_beyond_the_vocabulary_never_reach_the_model(trial, subject):
    """An id that is none has no meaning, so it may not be read as another one."""
    for case in trial.some([case for case in TENSORS if case.startswith("id ")], in_ci=4):
        for name in ("encode", "evaluate", "concepts", "flow"):
            trial.run(
                f"{name} of tokens: {case}, {subject.kind}",
                lambda name=name, case=case: VERBS[name].call(subject, TENSORS[case]()),
                lambda _: _fail("it was read"),
            )


def _fail(message: str) -> None:
    raise AssertionError(message)


def _padding(subject: Subject) -> int:
    return subject.lens.host.vocabulary.padding


def _with_padding(rows: list[Tensor], padding: int, side: str) -> Tensor:
    width = max(len(row) for row in rows)
    tokens = torch.full((len(rows), width), padding)
    for index, row in enumerate(rows):
        tokens[index, slice(width - len(row), None) if side == "left" else slice(len(row))] = row
    return tokens


_ROWS = st.lists(st.lists(st.integers(5, D_VOCAB - 1), min_size=1, max_size=12), max_size=6)


def test_padding_is_never_read_as_text(trial, subject):
    """Rows have the same codes alone, side by side, and padded on either side."""
    lens = subject.lens
    vocabulary = lens.host.vocabulary
    # Where the start token also pads, texts begin with it.
    first = [vocabulary.padding] * vocabulary.padding_rule.n_begin
    last = [] if subject.kind.causal else [vocabulary.special_by_name["sep"]]
    first = first if subject.kind.causal else [vocabulary.special_by_name["cls"]]

    @PROFILE
    @given(rows=_ROWS.filter(bool), side=st.sampled_from(["left", "right"]))
    def search(rows: list[list[int]], side: str) -> None:
        tokens = [torch.tensor([*first, *row, *last]) for row in rows]
        padded = _with_padding(tokens, _padding(subject), side)

        def check(encoding: "cl.Encoding") -> None:
            assert len(encoding.codes) == len(rows)
            for row, alone in enumerate(tokens):
                codes = encoding.codes[row][encoding.mask[row]]
                expected = lens.encode(alone).codes
                assert codes.equal(expected[expected >= 0]), f"{side} padding is read as text"

        trial.run(
            f"encode of rows {rows}, padded on the {side}, {subject.kind}",
            lambda: lens.encode(padded),
            check,
        )

    search()


_SHAPES = st.lists(st.integers(0, 5), max_size=4)
_IDS = st.one_of(
    st.integers(0, D_VOCAB - 1), st.integers(-3, D_VOCAB + 3), st.integers(-(2**63), 2**63 - 1)
)


def test_generated_tokens(trial, subject):
    quick = [name for name, verb in VERBS.items() if not verb.is_slow]

    @PROFILE
    @given(data=st.data(), shape=_SHAPES, name=st.sampled_from(quick))
    def search(data: st.DataObject, shape: list[int], name: str) -> None:
        n_ids = int(np.prod(shape))
        ids = data.draw(st.lists(_IDS, min_size=n_ids, max_size=n_ids))
        tokens = torch.tensor(ids, dtype=torch.long).reshape(shape)
        _tell(trial, subject, name, shown(tokens.tolist()), lambda: tokens)

    search()


def test_rows_do_not_depend_on_their_neighbors(trial, subject):
    lens = subject.lens
    for n_rows, length in trial.some([(n, m) for n in (1, 2, 7, 40) for m in (2, 5, 30)], in_ci=4):
        tokens = words(n_rows, length, seed=n_rows * length)

        def check(encoding: "cl.Encoding", tokens: Tensor = tokens) -> None:
            for row in range(len(tokens)):
                assert encoding.codes[row].equal(lens.encode(tokens[row]).codes[0])

        trial.run(
            f"encode of {n_rows} rows of {length}, {subject.kind}",
            lambda tokens=tokens: lens.encode(tokens),
            check,
        )
