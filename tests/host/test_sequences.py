"""Beam search: the host reorders its cache between passes, and what goes along with it follows."""

import copy

import pytest
import torch
from transformers import DynamicCache

import clvq_lens as cl
from clvq_lens.host.sequences import follow_sequences
from tests.host.contract.checks import commonest
from tests.hosts import KINDS, words

BRIDGES = [kind for kind in KINDS if kind.name in ("bridge-gpt2", "bridge-llama")]
CHANGES = {
    "splice": lambda lens, codes: lens.splice(),
    "ablate": lambda lens, codes: lens.edit(cl.Ablate(codes)),
    "force-in-the-prompt": lambda lens, codes: lens.edit(cl.Force(codes[0], at=-1)),
    "by-token": lambda lens, codes: lens.edit(cl.Force(codes[0], at=lambda t: t % 3 == 0)),
    "of-what-came-before": lambda lens, codes: lens.edit(
        cl.Force(codes[0], at=lambda t: torch.nn.functional.pad(t[:, :-1], (1, 0)) % 3 == 0)
    ),
}


@pytest.fixture(scope="module", params=BRIDGES, ids=str)
def kind(request):
    return request.param


@pytest.fixture(scope="module", params=["transformer", "mlp"])
def lens(request, kind):
    model = kind.model()
    lens = model.add_clvq(1, 2, n_codes=12, top_k=3, decoder=request.param)
    lens.fit(words(60, 16, seed=2), n_tokens=2_000, batch_tokens=256, progress=False)
    return lens


@pytest.mark.parametrize("name", CHANGES)
def test_beam_search_with_and_without_the_cache_agrees(lens, name):
    prompts = words(3, 6, seed=8)

    def found(use_cache):
        with CHANGES[name](lens, commonest(lens, prompts)):
            return lens.model.hf_generate(
                prompts,
                max_new_tokens=10,
                do_sample=False,
                num_beams=4,
                use_past_kv_cache=use_cache,
                use_cache=use_cache,
                stop_at_eos=False,
                return_dict_in_generate=True,
                output_scores=True,
            )

    cached, uncached = found(True), found(False)
    assert torch.equal(cached.sequences, uncached.sequences)
    torch.testing.assert_close(
        cached.sequences_scores, uncached.sequences_scores, atol=1e-4, rtol=0
    )


class _Rows:
    def __init__(self):
        self.seen = []

    def take(self, rows):
        self.seen.append(rows.tolist())


def test_a_cache_tells_who_follows_it_once_and_a_copy_tells_nobody():
    cache, rows = DynamicCache(), _Rows()
    follow_sequences(cache, rows.take)
    follow_sequences(cache, rows.take)
    values = torch.arange(3.0).view(3, 1, 1, 1)
    cache.update(values, values, 0)
    twin = copy.deepcopy(cache)
    cache.reorder_cache(torch.tensor([2, 0, 0]))
    twin.reorder_cache(torch.tensor([1, 1, 1]))
    assert rows.seen == [[2, 0, 0]]
    assert cache.layers[0].keys.flatten().tolist() == [2, 0, 0]
    assert twin.layers[0].keys.flatten().tolist() == [1, 1, 1]


def test_who_follows_a_cache_is_not_kept_alive():
    cache, rows = DynamicCache(), _Rows()
    follow_sequences(cache, rows.take)
    del rows
    cache.update(torch.zeros(2, 1, 1, 1), torch.zeros(2, 1, 1, 1), 0)
    cache.reorder_cache(torch.tensor([1, 0]))


class _Stricter(DynamicCache):
    """A cache of somebody's own, which calls the method of its parent."""

    def reorder_cache(self, beam_idx):
        assert len(beam_idx) == 2
        super().reorder_cache(beam_idx)


def test_a_cache_that_calls_its_parent_tells_of_a_move_once():
    first, cache, rows = DynamicCache(), _Stricter(), _Rows()
    follow_sequences(first, rows.take)  # so that the parent's method is followed, too
    follow_sequences(cache, rows.take)
    cache.update(torch.zeros(2, 1, 1, 1), torch.zeros(2, 1, 1, 1), 0)
    cache.reorder_cache(torch.tensor([1, 0]))
    assert rows.seen == [[1, 0]]
