"""One model, one lens and one batch of tokens of whatever kind of host a test runs on."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import clvq_lens as cl
from tests.host.contract.checks import USUAL, parameters
from tests.hosts import Kind, words


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    """Models this small only lose by more, most of all where other work is going on."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture(scope="package", params=parameters(USUAL), ids=str)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Every usual kind of host that the installed TransformerLens has."""
    return request.param


@pytest.fixture(scope="package")
def saved(kind: Kind, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quantizer from block 1 to block 2 of this kind, fitted for a moment on random words."""
    lens = kind.model().add_clvq(1, 2, n_codes=12, top_k=3)
    lens.fit(words(60, 16, seed=2), n_tokens=3_000, batch_tokens=256, progress=False)
    return lens.save(tmp_path_factory.mktemp(kind.name) / "1-2")


@pytest.fixture(scope="package")
def quantizer(saved: Path) -> "cl.CrossLayerQuantizer":
    """The saved quantizer, to be copied."""
    return cl.load(saved)


@pytest.fixture(scope="package")
def shared_model(kind: Kind) -> Any:
    """One model for all tests, which has run before: what it keeps of that is no trace of ours."""
    model = kind.model()
    model.run_with_cache(words(1, 3), **{kind.mask_option: torch.ones(1, 3, dtype=torch.long)})
    return model


@pytest.fixture
def model(shared_model: Any) -> Iterator[Any]:
    """A model with nothing on it."""
    yield shared_model
    for lens in list(shared_model.clvqs.values()):
        lens.remove()
    shared_model.reset_hooks(including_permanent=True)
    shared_model.zero_grad()


@pytest.fixture
def lens(model: Any, quantizer: "cl.CrossLayerQuantizer") -> "cl.Lens":
    """The fitted quantizer on the model."""
    return model.add_clvq(quantizer=copy.deepcopy(quantizer))


@pytest.fixture
def tokens() -> torch.Tensor:
    """Four sequences of twelve words."""
    return words(4, 12)
