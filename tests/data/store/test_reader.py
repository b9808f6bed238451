"""Reading a store for a fit: every epoch has all of it, shuffled, and a stream can be resumed."""

from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch

import clvq_lens as cl
from clvq_lens.config import CLVQConfig
from clvq_lens.data.activations import Activations, ActivationSource
from clvq_lens.data.store.store_reader import StoreReader
from clvq_lens.data.stream import ShuffledStream
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from tests.conftest import attach, random_model

MODEL = random_model(d_vocab=60)
POINTS = ("blocks.1.hook_resid_post", "blocks.2.hook_resid_post")
GENERATOR = torch.Generator().manual_seed(3)
N = 60
# Token ids tell the documents apart.
ROWS = [torch.full((1 + number % 12,), number) for number in range(N)]
N_TOKENS = sum(map(len, ROWS))
FITS = 2**30


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> cl.ActivationStore:
    options: dict[str, Any] = {"points": [1, 2], "shard_bytes": 9_000, "progress": False}
    return cl.cache_activations(MODEL, ROWS, tmp_path_factory.mktemp("store"), **options)


def everything(digests: np.ndarray) -> np.ndarray:
    return np.ones(len(digests), dtype=bool)


def reader(store: cl.ActivationStore, seed: int = 0) -> StoreReader:
    return StoreReader(store, *POINTS, everything, as_it_is, seed=seed, batch_tokens=30)


def as_it_is(batch: Activations) -> Activations:
    return batch


class Picky(ActivationSource):
    """Finds that tokens with some activations are outliers."""

    knows_outliers = True

    def are_outliers(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return source[..., 0] > target[..., 0]


def source_of(kind: type[ActivationSource] = ActivationSource) -> ActivationSource:
    quantizer = CrossLayerQuantizer(CLVQConfig(n_codes=2, decoder="table"), 16, 16)
    return kind(attach(MODEL, quantizer, *POINTS), long_texts="error")


def shuffled(
    store: cl.ActivationStore,
    *,
    buffer_tokens: int,
    whole: bool,
    kind: type[ActivationSource] = ActivationSource,
) -> ShuffledStream:
    return ShuffledStream(
        reader(store),
        source_of(kind),
        buffer_tokens=buffer_tokens,
        batch_tokens=30,
        whole_sequences=whole,
        generator=torch.Generator().manual_seed(0),
    )


def bits(batches: Any, n: int) -> list[bytes]:
    return [batch.source.numpy().tobytes() for batch in islice(batches, n)]


def tokens_of(stream: ShuffledStream, n_tokens: int) -> torch.Tensor:
    found: list[torch.Tensor] = []
    for batch in stream:
        found.append(batch.tokens[batch.mask])
        if sum(map(len, found)) >= n_tokens:
            break
    return torch.cat(found)[:n_tokens]


@pytest.mark.parametrize("whole", [True, False])
def test_an_epoch_has_every_token_once(store, whole: bool):
    assert len(store.index.shards) > 4
    stream = shuffled(store, buffer_tokens=FITS, whole=whole)
    assert stream.n_tokens == N_TOKENS
    for epoch in tokens_of(stream, 3 * N_TOKENS).split(N_TOKENS):
        assert torch.bincount(epoch, minlength=N).tolist() == [len(row) for row in ROWS]


@pytest.mark.parametrize("whole", [True, False])
def test_if_not_all_fits_every_token_keeps_coming(store, whole: bool):
    stream = shuffled(store, buffer_tokens=100, whole=whole)
    assert stream.n_tokens == N_TOKENS
    found = tokens_of(stream, 12 * N_TOKENS)
    often = torch.bincount(found, minlength=N) / torch.tensor([len(row) for row in ROWS])
    assert often.min() >= 11  # some of the twelfth epoch still wait in the buffer
    assert often.max() <= 13


def test_source_target_and_tokens_stay_together(store):
    exact: dict[int, torch.Tensor] = {}
    for document in store:
        parts = [document.stored.activations(0, point) for point in POINTS]
        exact[document.number] = torch.cat(parts, dim=1)
    for batch in islice(shuffled(store, buffer_tokens=150, whole=True), 40):
        for row, number in enumerate(batch.documents):
            values = torch.cat([batch.source[row], batch.target[row]], dim=1)
            assert torch.equal(values[batch.attended[row]], exact[number])
            assert not values[~batch.attended[row]].any()


@pytest.mark.parametrize("buffer_tokens", [FITS, 40, 150])
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("n_given", [0, 1, 7, 90])
def test_another_stream_goes_on_where_one_was(store, buffer_tokens: int, whole: bool, n_given: int):
    options: dict[str, Any] = {"buffer_tokens": buffer_tokens, "whole": whole}
    stream = shuffled(store, **options)
    batches = iter(stream)
    for _ in range(n_given):
        next(batches)
        torch.rand(3, generator=stream._generator)  # as a codebook draws its codes
    state, drawn = stream.state(), stream._generator.get_state()
    expected = bits(batches, 100)

    other = shuffled(store, **options)
    other._generator.set_state(drawn)
    other.restore_(state)
    assert other.epoch == state.epoch or buffer_tokens != FITS
    assert other.state() is state
    batches = iter(other)
    assert bits(batches, 1) == expected[:1]
    again, drawn = other.state(), other._generator.get_state()
    assert bits(batches, 99) == expected[1:]

    third = shuffled(store, **options)
    third._generator.set_state(drawn)
    third.restore_(again)
    assert bits(third, 99) == expected[1:]


def test_batches_taken_together_are_those_taken_one_by_one(store, monkeypatch):
    def given(together_bytes: int) -> list[Activations]:
        monkeypatch.setattr("clvq_lens.data.stream._TOGETHER_BYTES", together_bytes)
        return list(islice(shuffled(store, buffer_tokens=150, whole=False), 60))

    for one, other in zip(given(0), given(2**20), strict=True):
        for name in ("source", "target", "tokens", "attended", "mask", "real"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name


@pytest.mark.parametrize("buffer_tokens", [150, FITS])
def test_outliers_are_in_no_batch_of_tokens_and_in_no_mask(store, buffer_tokens: int):
    options: dict[str, Any] = {"buffer_tokens": buffer_tokens, "kind": Picky}
    for batch in islice(shuffled(store, whole=False, **options), 60):
        assert (batch.source[..., 0] <= batch.target[..., 0]).all()
        assert batch.n_tokens == len(batch.tokens) > 0
    n_outliers = 0
    for batch in islice(shuffled(store, whole=True, **options), 60):
        is_outlier = batch.source[..., 0] > batch.target[..., 0]
        assert torch.equal(batch.mask, batch.attended & ~is_outlier)
        assert batch.n_outliers == int((batch.attended & is_outlier).sum())
        assert torch.equal(batch.of_real_tokens("source"), batch.source[batch.mask])
        assert batch.n_tokens == len(batch.real) > 0
        n_outliers += batch.n_outliers
    assert n_outliers > 0


def test_a_stream_goes_on_wherever_its_buffer_began(store):
    """Buffers end in a shard, at its end, or at the end of an epoch."""
    stream = shuffled(store, buffer_tokens=60, whole=True)
    batches, places = iter(stream), set()
    for _ in range(200):
        next(batches)
        state, drawn = stream.state(), stream._generator.get_state()
        place = (state.epoch, state.part, state.sequence)
        if place in places:
            continue
        places.add(place)
        other = shuffled(store, buffer_tokens=60, whole=True)
        other._generator.set_state(drawn)
        other.restore_(state)
        left = stream._left_over, stream._n_parts, stream._n_used
        assert other._place == stream._place
        assert [len(part) for part in other._buffer.parts] == [
            len(part) for part in stream._buffer.parts
        ]
        theirs = other._left_over, other._n_parts, other._n_used
        assert (theirs[0] is None) == (left[0] is None)
        assert theirs[1] == left[1]
        if left[0] is not None:
            assert theirs[2] == left[2]
    assert {place[2] == 0 for place in places} == {True, False}


def test_a_stream_goes_on_on_a_machine_with_other_memory(store, monkeypatch):
    """Where all fits, and where it does not."""
    stream = shuffled(store, buffer_tokens=FITS, whole=True)
    batches = iter(stream)
    next(batches)
    state, drawn = stream.state(), stream._generator.get_state()
    expected = bits(batches, 60)
    monkeypatch.setattr("clvq_lens.data.stream.memory_bytes", lambda device: 60_000)
    other = shuffled(store, buffer_tokens=FITS, whole=True)
    assert not other.fits
    other._generator.set_state(drawn)
    other.restore_(state)
    assert bits(other, 60) == expected


def test_a_draw_is_fair_and_always_the_same(store):
    drawn = [torch.cat([b.tokens[b.mask] for b in reader(store).first(80)]) for _ in range(2)]
    assert torch.equal(drawn[0], drawn[1])
    assert 80 <= len(drawn[0]) < 80 + 12
    other = torch.cat([b.tokens[b.mask] for b in reader(store, seed=1).first(80)])
    assert sorted(other.tolist()) != sorted(drawn[0].tolist())
    counts = torch.zeros(N)
    for seed in range(200):
        for batch in reader(store, seed=seed).first(80):
            counts[batch.tokens[batch.mask].unique()] += 1
    # About 80 of 390 tokens: each document comes in every fifth draw, wherever it is.
    expected = 200 * 80 / N_TOKENS
    assert counts.mean().item() == pytest.approx(expected, rel=0.2)
    assert counts.min() > expected - 4 * expected**0.5
    assert counts.max() < expected + 5 * expected**0.5
