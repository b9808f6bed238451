"""What a fit has the model compute: each token once, and no more tokens than were asked for."""

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from transformer_lens import HookedTransformer

import clvq_lens as cl
from clvq_lens.data.store.estimate import Expected
from clvq_lens.errors import PathError
from clvq_lens.training import training_data
from tests.conftest import random_model

N, N_CONTEXT = 300, 24
# Rows of 4 to 20 tokens; the first two tell them apart.
DATA = [
    torch.cat([torch.tensor([number % 40, number // 40]), torch.randint(0, 40, (2 + number % 17,))])
    for number in range(N)
]
N_TOKENS = sum(map(len, DATA))
DECODERS = ("transformer", "table")


def model_that_counts() -> tuple[HookedTransformer, Counter[int]]:
    """A model, and how often it has read each row."""
    model, read = random_model(n_ctx=N_CONTEXT), Counter()

    def count(module: Any, args: tuple[Any, ...]) -> None:
        read.update((args[0][:, 0] + 40 * args[0][:, 1]).tolist())

    model.embed.register_forward_pre_hook(count)
    return model, read


def tokens_read(read: Counter[int]) -> int:
    return sum(len(DATA[number]) * n for number, n in read.items())


def fit(model: HookedTransformer, **options: Any) -> cl.Lens:
    lens = model.add_clvq(1, 2, n_codes=8, decoder=options.pop("decoder", "table"))
    lens.fit(DATA, progress=False, batch_tokens=128, **options)
    return lens


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("buffer_tokens", [2**19, N_TOKENS // 5])
def test_each_row_is_read_once(decoder: str, buffer_tokens: int):
    """By initialization, two passes of training, validation and frozen pass together."""
    model, read = model_that_counts()
    lens = fit(model, decoder=decoder, buffer_tokens=buffer_tokens, n_tokens=2 * N_TOKENS)
    assert set(read.values()) == {1}
    assert len(read) == N
    assert int(lens.quantizer.usage.sum()) < N_TOKENS  # some rows are held out


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("buffer_tokens", [2**19, N_TOKENS // 20])
def test_no_more_is_read_than_was_asked_for(decoder: str, buffer_tokens: int):
    model, read = model_that_counts()
    asked = N_TOKENS // 4
    lens = fit(model, decoder=decoder, buffer_tokens=buffer_tokens, n_tokens=asked)
    assert set(read.values()) == {1}
    # And a part beside that is held out; a row is read to its end.
    assert asked / 2 < tokens_read(read) < asked / 0.95 + 3 * 20
    assert asked / 2 < int(lens.quantizer.usage.sum()) < asked + 20


def test_what_is_kept_for_a_fit_is_deleted_after_it(monkeypatch, tmp_path: Path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    seen: list[Path] = []
    kept = training_data.kept_data

    def watched(*args: Any, **options: Any) -> Any:
        store = kept(*args, **options)
        seen.extend(tmp_path.glob("clvq-lens-*/activations/*.safetensors"))
        return store

    monkeypatch.setattr(training_data, "kept_data", watched)
    model, _ = model_that_counts()
    fit(model, buffer_tokens=N_TOKENS // 5)
    assert seen
    assert list(tmp_path.iterdir()) == []


def test_on_a_full_disk_the_model_reads_again_and_says_so(monkeypatch, caplog):
    def full(*args: Any, **options: Any) -> Any:
        raise PathError("The disk of /tmp has 1.0 MB left.")

    monkeypatch.setattr(training_data, "kept_data", full)
    model, read = model_that_counts()
    with caplog.at_level(logging.WARNING):
        lens = fit(model, buffer_tokens=N_TOKENS // 5, n_tokens=2 * N_TOKENS)
    assert "reads the documents again in every pass" in caplog.text
    assert "1.0 MB left. Set TMPDIR" in caplog.text
    assert max(read.values()) > 1
    assert int(lens.quantizer.usage.sum()) > 0


def test_more_documents_than_the_first_ones_let_expect_are_kept_all_the_same(monkeypatch):
    monkeypatch.setattr(training_data, "expected", lambda *args, **options: Expected(1.0, 1.0))
    model, read = model_that_counts()
    fit(model, buffer_tokens=N_TOKENS // 5, n_tokens=2 * N_TOKENS)
    assert len(read) == N
    assert max(read.values()) == 2  # what was in the buffer when it was full
    assert sum(read.values()) < 1.4 * N
