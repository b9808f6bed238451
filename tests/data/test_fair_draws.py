"""What a fit reads first is a fair draw, also of a corpus that does not fit the buffer."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from clvq_lens.config import CLVQConfig, FitConfig
from clvq_lens.data.activations import Activations
from clvq_lens.data.stream import ShuffledStream
from clvq_lens.data.tokens import token_batches
from clvq_lens.host.host import Host
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from clvq_lens.training import training_data
from clvq_lens.training.fitting import Fit
from tests.conftest import attach, random_model

SOURCE, TARGET = "blocks.1.hook_resid_post", "blocks.2.hook_resid_post"
N = 600
MODEL = random_model(d_vocab=N, n_ctx=48)
# The document at place p has about 2 + p / 15 tokens, all of them p: 2 at the start, 42 at the end.
SKEWED = [torch.full((2 + place // 15,), place) for place in range(N)]
N_TOKENS = sum(map(len, SKEWED))


def start(**options: Any) -> tuple[Fit, ShuffledStream]:
    """A fit whose buffer holds a tenth of the corpus."""
    options = {"buffer_tokens": N_TOKENS // 10, "batch_tokens": 150, **options}
    quantizer = CrossLayerQuantizer(CLVQConfig(n_codes=8, top_k=2), 16, 16)
    config = FitConfig(**options)
    fit = Fit(attach(MODEL, quantizer, SOURCE, TARGET), SKEWED, config, progress=False)
    return fit, fit.data.open(whole_sequences=True)


def lengths(batches: Iterable[Activations]) -> np.ndarray:
    """The mean length of the documents of each batch."""
    return np.array([float(batch.attended.sum(1).double().mean()) for batch in batches])


def seen(batches: Iterable[Activations]) -> Tensor:
    """The places of all tokens."""
    return torch.cat([batch.tokens[batch.mask] for batch in batches])


def assert_fair(places: Tensor, of: Tensor, n_documents: int) -> None:
    """Tokens as late in the corpus, and so in documents as long, as those of all of it."""
    error = float(of.double().std()) / n_documents**0.5
    assert float(places.double().mean()) == pytest.approx(float(of.double().mean()), abs=4 * error)


def lag_1(values: np.ndarray) -> float:
    return float(np.corrcoef(values[1:], values[:-1])[0, 1])


def test_training_batches_come_in_random_order_of_length():
    _, stream = start()
    found = lengths(islice(stream, 250))
    assert found.std() > 8  # they are of short documents or of long ones
    assert abs(lag_1(found)) < 0.25


@pytest.mark.parametrize("buffer_tokens", [N_TOKENS // 10, 2**19])
def test_what_a_frozen_pass_or_an_initialization_reads_is_fair(buffer_tokens: int):
    fit, stream = start(held_out_fraction=0.0, buffer_tokens=buffer_tokens)
    places = seen(stream.once(N_TOKENS // 6))
    assert N_TOKENS // 6 <= len(places) < N_TOKENS // 5
    assert_fair(places, torch.cat(SKEWED), n_documents=len(places.unique()))
    assert abs(lag_1(lengths(stream.once(N_TOKENS)))) < 0.6  # of few batches; sorted, it is 0.9
    assert fit.budget == 16 * stream.n_tokens


def test_held_out_text_is_a_fair_draw_of_held_out_documents(monkeypatch):
    monkeypatch.setattr(training_data, "HELD_OUT_TOKENS", N_TOKENS // 8)
    fit, _ = start(held_out_fraction=0.5)
    places = seen(fit.data.held_out().batches)
    held_out = torch.cat([document.content for document in fit.data._order(held_out=True).epoch(0)])
    assert N_TOKENS // 8 <= len(places) < N_TOKENS // 4
    assert set(places.tolist()) < set(held_out.tolist())
    assert_fair(places, held_out, n_documents=len(places.unique()))


def test_the_codebook_starts_from_a_fair_draw(monkeypatch):
    fit, stream = start(held_out_fraction=0.0)
    read: list[Tensor] = []
    once = stream.once

    def watched(n_tokens: int) -> Iterator[Activations]:
        for batch in once(n_tokens):
            read.append(batch.tokens[batch.mask])
            yield batch

    monkeypatch.setattr(stream, "once", watched)
    fit.start(stream)
    places = torch.cat(read)
    assert 2 * 128 * 8 <= len(places) < N_TOKENS // 5
    assert_fair(places, torch.cat(SKEWED), n_documents=len(places.unique()))


def test_the_size_of_a_corpus_that_does_not_fit_is_estimated_well():
    _, stream = start(held_out_fraction=0.0)
    assert stream.n_tokens == pytest.approx(N_TOKENS, rel=0.35)
    _, whole = start(held_out_fraction=0.0, buffer_tokens=2**19)
    assert whole.n_tokens == N_TOKENS


def test_batches_of_tokens_come_in_random_order_only_if_a_generator_is_given():
    host = Host(MODEL)
    rows = SKEWED[::3]

    def order(generator: torch.Generator | None) -> list[int]:
        found = token_batches(host, rows, long_texts="error", generator=generator)
        return [batch.tokens.shape[1] for batch in found]

    host_order = order(None)
    assert host_order == sorted(host_order)
    drawn = order(torch.Generator().manual_seed(0))
    assert drawn != host_order
    assert sorted(drawn) == host_order


def test_a_long_document_does_not_fill_the_memory_of_the_held_out_part(monkeypatch):
    monkeypatch.setattr(training_data, "HELD_OUT_TOKENS", 100)
    fit, _ = start(held_out_fraction=0.5)
    assert sum(batch.n_tokens for batch in fit.data.held_out().batches) < 100 + 2_048
