"""While logits are computed often, the unembedding lies otherwise in memory, and nothing else."""

import pytest
import torch
from safetensors.torch import save

from clvq_lens.host.host import Host


def test_logits_have_the_same_bits_and_the_weights_are_as_they_were(model):
    host, weight = Host(model), model.unembed.W_U
    place, before = weight.data_ptr(), weight.detach().clone()
    vectors = torch.randn(5, model.cfg.d_model)
    expected = host.unembed(vectors)
    with host.unembedding_often():
        assert weight.T.is_contiguous()  # or the model copies it at every pass
        assert torch.equal(host.unembed(vectors), expected)
    assert weight.data_ptr() == place
    assert torch.equal(weight, before)
    save(model.state_dict())  # safetensors take contiguous tensors alone


def test_blocks_may_end_in_any_order(model):
    """As those of generators do, which end when somebody forgets them."""
    host, place = Host(model), model.unembed.W_U.data_ptr()
    first, second = host.unembedding_often(), host.unembedding_often()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    assert model.unembed.W_U.data_ptr() == place
    assert model.unembed.W_U.is_contiguous()


@pytest.mark.parametrize("verb", ["evaluate", "concepts"])
def test_verbs_that_make_logits_a_few_rows_at_a_time_open_it(model, tokens, monkeypatch, verb):
    lens = model.add_clvq(0, 1, n_codes=6, decoder="table")
    lens.fit(tokens, n_tokens=48, progress=False)
    lies_otherwise = []
    unembed = Host.unembed

    def noting(self, vectors):
        lies_otherwise.append(model.unembed.W_U.T.is_contiguous())
        return unembed(self, vectors)

    monkeypatch.setattr(Host, "unembed", noting)
    getattr(lens, verb)(tokens, progress=False)
    assert lies_otherwise
    assert all(lies_otherwise)
    assert model.unembed.W_U.is_contiguous()
