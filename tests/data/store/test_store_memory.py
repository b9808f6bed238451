"""Filling a store, and fitting from one, take the same memory however many tokens there are."""

import sys

import pytest

from tests.peak_memory import peak_anonymous_kib

CACHE = """
import itertools
from tests.conftest import random_model

def rows():
    generator = torch.Generator().manual_seed(0)
    for _ in range(int(sys.argv[2]) // 64):
        yield torch.randint(0, 40, (64,), generator=generator)

model = random_model(n_ctx=64)
cl.cache_activations(model, rows(), sys.argv[1], points=[1, 2], shard_bytes=2**20, progress=False)
"""
FIT = """
from tests.conftest import random_model

lens = random_model(n_ctx=64).add_clvq(1, 2, n_codes=16, top_k=3, decoder="table")
lens.fit(
    cl.ActivationStore(sys.argv[1]),
    n_tokens=int(sys.argv[2]),
    buffer_tokens=2**14,
    n_evaluations=2,
    progress=False,
)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_store(tmp_path):
    few, many = 100_000, 400_000
    for script in (CACHE, FIT):
        peaks = [peak_anonymous_kib(script, tmp_path / str(n), n) for n in (few, many)]
        assert peaks[1] <= 1.05 * peaks[0], script
