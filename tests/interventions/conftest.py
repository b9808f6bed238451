"""Fitted lenses for tests of edits, each on a model of its own: tests edit it and no more."""

import pytest

import clvq_lens as cl
from tests.conftest import random_model
from tests.interventions.lenses import fit


@pytest.fixture(scope="module", params=["transformer", "mlp", "table"])
def any_lens(request: pytest.FixtureRequest) -> cl.Lens:
    """With each decoder."""
    return fit(random_model().add_clvq(1, 2, n_codes=12, top_k=3, decoder=request.param))


@pytest.fixture(scope="module")
def lens() -> cl.Lens:
    """With the transformer decoder."""
    return fit(random_model().add_clvq(1, 2, n_codes=12, top_k=3))


@pytest.fixture(scope="module")
def two() -> tuple[cl.Lens, ...]:
    """Two lenses with the same target on one model."""
    model = random_model()
    return tuple(fit(model.add_clvq(source, 2, n_codes=12, top_k=3)) for source in (1, 0))
