"""The model as the rest of the library sees it: sizes of passes, and the unembedding alone."""

import pytest
import torch

from clvq_lens.data.tokens import token_batches
from clvq_lens.host.host import Host
from tests.conftest import random_model


def sizes_of_batches(host):
    rows = [torch.arange(1, 21)] * 10
    batches = token_batches(host, rows, long_texts="error")
    return [batch.tokens.numel() for batch in batches]


def test_batches_have_as_many_positions_as_a_host_is_told(model):
    assert sizes_of_batches(Host(model)) == [200]
    assert sizes_of_batches(Host(model, positions_per_pass=100)) == [100, 100]
    host = Host(model)
    host.positions_per_pass = 50
    assert sizes_of_batches(host) == [40] * 5


@torch.no_grad()
def test_unembedding_is_the_models_own_and_calls_no_hook(stories_model, stories):
    host = Host(stories_model)
    tokens = stories_model.to_tokens(stories[0][:100])
    logits, cache = stories_model.run_with_cache(tokens)
    fired = []
    stories_model.add_hook("ln_final.hook_normalized", lambda value, hook: fired.append(1))
    handle = stories_model.unembed.register_forward_hook(lambda *_: fired.append(2))
    try:
        found = host.unembed(cache["blocks.4.hook_resid_post"][0])
        assert fired == []
        stories_model(tokens)
        assert fired == [1, 2]  # they are there again
    finally:
        stories_model.reset_hooks()
        handle.remove()
    assert torch.allclose(found, logits[0], atol=1e-4)


def test_unembedding_works_without_a_final_norm():
    plain = random_model(normalization_type=None)
    vectors = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    expected = vectors @ plain.W_U + plain.b_U
    assert torch.allclose(Host(plain).unembed(vectors), expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_logits_are_float32_whatever_the_model(dtype: torch.dtype):
    logits = Host(random_model(dtype=dtype)).unembed(torch.randn(2, 16))
    assert logits.dtype == torch.float32
