"""A store takes the place of texts, with the same results and without the model."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import clvq_lens as cl
from clvq_lens import errors
from clvq_lens.host.host import Host
from tests.conftest import random_model

GENERATOR = torch.Generator().manual_seed(3)
ROWS = [torch.randint(0, 40, (4 + number % 17,), generator=GENERATOR) for number in range(90)]
FIT: dict[str, Any] = {"n_tokens": 2_000, "batch_tokens": 200, "progress": False}


@pytest.fixture
def model() -> Any:
    return random_model()


@pytest.fixture
def store(model: Any, tmp_path: Any) -> cl.ActivationStore:
    options: dict[str, Any] = {"points": [1, 2], "shard_bytes": 30_000, "progress": False}
    return cl.cache_activations(model, ROWS, tmp_path, **options)


def new_lens(model: Any, **options: Any) -> cl.Lens:
    options = {"n_codes": 12, "top_k": 3, "decoder": "table", **options}
    return model.add_clvq(1, 2, **options)


@pytest.fixture
def no_passes(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on, the model may not be run up to the hook points."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the model was run")

    return lambda: monkeypatch.setattr(Host, "activations", refuse)


@pytest.mark.parametrize("decoder", ["table", "transformer"])
@pytest.mark.parametrize("buffer_tokens", [2**19, 300])
def test_a_fit_reads_the_disk_and_not_the_model(
    model, store, no_passes, decoder: str, buffer_tokens: int
):
    no_passes()
    lens = new_lens(model, decoder=decoder)
    history = lens.fit(store, buffer_tokens=buffer_tokens, **FIT)
    assert history.n_training_documents + history.n_held_out_documents == len(ROWS)
    assert history.records[-1].held_out_fvu < 0.9


def test_the_same_documents_are_held_out_as_of_texts(model, store):
    lens = new_lens(model)
    of_store = lens.fit(store, **FIT)
    usage = int(lens.quantizer.usage.sum())
    of_texts = lens.fit(ROWS, **FIT)
    assert of_store.n_held_out_documents == of_texts.n_held_out_documents
    assert int(lens.quantizer.usage.sum()) == usage  # tokens of the frozen pass


def test_a_fit_from_a_store_has_the_same_bits_each_time(model, store):
    states = []
    for _ in range(2):
        lens = new_lens(model, name=None)
        lens.fit(cl.ActivationStore(store.folder), buffer_tokens=300, **FIT)
        states.append(lens.quantizer.state_dict())
        lens.remove()
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name


def test_evaluations_and_tables_are_those_of_texts(model, store, no_passes):
    lens = new_lens(model)
    lens.fit(ROWS, **FIT)
    of_texts = lens.evaluate(ROWS, progress=False).frame()
    table_of_texts = lens.concepts(ROWS, progress=False).frame()
    no_passes()
    of_store = lens.evaluate(store, progress=False).frame()
    table_of_store = lens.concepts(store, progress=False).frame()
    torch.testing.assert_close(
        torch.tensor(of_store["value"].to_numpy(float)),
        torch.tensor(of_texts["value"].to_numpy(float)),
        rtol=1e-4,
        atol=1e-5,
        equal_nan=True,
    )
    assert table_of_store["usage"].tolist() == table_of_texts["usage"].tolist()


def test_baselines_and_comparisons_take_it(model, store, no_passes):
    lens = new_lens(model)
    no_passes()
    lens.fit(store, **FIT)
    baseline = lens.baseline("k-means", store, progress=False)
    assert int(baseline.quantizer.usage.sum()) == int(lens.quantizer.usage.sum())
    comparison = cl.compare(
        [lens, "k-means"], store, train=store, decoders=["table"], n_seeds=1, progress=False
    )
    assert {"k-means", lens.name} <= set(comparison.methods)


def test_a_store_of_another_model_is_refused(store):
    lens = new_lens(random_model(seed=1))
    for verb in (lens.fit, lens.evaluate):
        if verb == lens.evaluate:
            lens.fit(ROWS, **FIT)
        with pytest.raises(errors.HostMismatchError, match="holds activations of another model"):
            verb(store, progress=False)


def test_a_hook_point_that_was_not_read_is_told(model, store):
    lens = model.add_clvq(0, 2, n_codes=12, top_k=3, decoder="table")
    with pytest.raises(errors.HookNotFoundError, match=r"has no activations at 'blocks\.0\."):
        lens.fit(store, **FIT)


def test_a_store_shows_what_it_holds(store):
    assert repr(store).startswith(f"ActivationStore({store.n_tokens:,} tokens of 90 documents")
    assert "blocks.1.hook_resid_post" in store.preview().to_string()
