import pytest
import torch
from torch import Tensor

from clvq_lens.quantizer.attention import (
    Attention,
    DecoderCache,
    KeyValues,
    attention_mask,
    rotate,
)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make(*, causal: bool, d: int = 8, n_heads: int = 2) -> Attention:
    attention = Attention(d, d, n_heads, causal=causal)
    with torch.no_grad():
        for seed, parameter in enumerate(attention.parameters()):
            parameter.copy_(random(*parameter.shape, seed=seed))
    return attention.eval()


def attend_by_hand(attention: Attention, x: Tensor, memory: Tensor, allowed: Tensor) -> Tensor:
    """Softmax attention head by head; ``allowed`` [query, key] holds for all sequences."""
    query = attention.query(x)
    key, value = attention.key_value(memory).chunk(2, dim=-1)
    width, gathered = x.shape[-1] // attention.n_heads, []
    for start in range(0, x.shape[-1], width):
        part = slice(start, start + width)
        q = rotate(query[:, None, :, part], offset=0).squeeze(1)
        k = rotate(key[:, None, :, part], offset=0).squeeze(1)
        scores = q @ k.mT / width**0.5
        weights = scores.masked_fill(~allowed, -torch.inf).softmax(-1)
        gathered.append(weights @ value[..., part])
    return attention.out(torch.cat(gathered, dim=-1))


# ---- rotary positions --------------------------------------------------------------------------


@pytest.mark.parametrize("d_head", [2, 4, 5, 8])
def test_scores_depend_on_the_distance_of_positions_only(d_head: int):
    query, key = random(1, 2, 6, d_head), random(1, 2, 6, d_head, seed=1)
    scores = rotate(query, offset=0) @ rotate(key, offset=0).mT
    shifted = rotate(query, offset=7) @ rotate(key, offset=7).mT
    other = rotate(query, offset=7) @ rotate(key, offset=0).mT
    torch.testing.assert_close(scores, shifted, rtol=0, atol=1e-5)
    assert not torch.allclose(scores, other, atol=1e-2)


def test_turning_keeps_lengths_and_the_first_position():
    x = random(1, 2, 6, 8)
    turned = rotate(x, offset=0)
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    assert torch.equal(turned[:, :, 0], x[:, :, 0])
    assert not torch.allclose(turned[:, :, 1:], x[:, :, 1:], atol=1e-2)


def test_an_odd_dimension_is_not_turned():
    x = random(1, 1, 6, 5)
    assert torch.equal(rotate(x, offset=3)[..., 4], x[..., 4])


# ---- the mask ----------------------------------------------------------------------------------


def rows(mask: Tensor) -> list[str]:
    return ["".join("x" if seen else "." for seen in row) for row in mask[0, 0].tolist()]


def test_a_causal_query_sees_real_keys_up_to_itself():
    key_mask = torch.tensor([[False, True, True, True]])
    assert rows(attention_mask(4, key_mask, causal=True)) == ["x...", ".x..", ".xx.", ".xxx"]


def test_a_full_query_sees_all_real_keys_and_itself():
    key_mask = torch.tensor([[False, True, True, False]])
    assert rows(attention_mask(4, key_mask, causal=False)) == ["xxx.", ".xx.", ".xx.", ".xxx"]


def test_late_queries_stand_at_the_end_of_the_keys():
    key_mask = torch.tensor([[False, True, True, True, True]])
    assert rows(attention_mask(2, key_mask, causal=True)) == [".xxx.", ".xxxx"]


# ---- attention ---------------------------------------------------------------------------------


@pytest.mark.parametrize("causal", [True, False])
def test_attention_is_the_softmax_of_its_scores(causal: bool):
    attention, x, memory = make(causal=causal), random(3, 5, 8), random(3, 5, 8, seed=1)
    allowed = torch.ones(5, 5, dtype=torch.bool)
    expected = attend_by_hand(attention, x, memory, allowed.tril() if causal else allowed)
    torch.testing.assert_close(attention(x, memory), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("causal", [True, False])
def test_a_mask_of_real_keys_changes_nothing(causal: bool):
    attention, x = make(causal=causal), random(3, 5, 8)
    masked = attention(x, x, key_mask=torch.ones(3, 5, dtype=torch.bool))
    torch.testing.assert_close(masked, attention(x, x), rtol=1e-5, atol=1e-5)


def test_memory_may_have_another_width():
    attention = Attention(8, 3, 2, causal=True)
    assert attention(random(2, 5, 8), random(2, 5, 3)).shape == (2, 5, 8)


@pytest.mark.parametrize("sizes", [[1] * 7, [3, 3, 1], [2, 5], [4, 1, 2]])
@pytest.mark.parametrize("masked", [True, False])
def test_positions_in_parts_are_attended_as_at_once(sizes: list[int], masked: bool):
    attention, x = make(causal=True), random(2, 7, 8)
    key_mask = torch.ones(2, 7, dtype=torch.bool)
    key_mask[1, :2] = False
    whole = attention(x, x, key_mask=key_mask if masked else None)
    past, parts, seen = KeyValues(), [], 0
    for part in x.split(sizes, dim=1):
        seen += part.shape[1]
        mask = key_mask[:, :seen] if masked else None
        parts.append(attention(part, part, key_mask=mask, past=past))
        assert past.length == seen
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-4, atol=1e-5)


def test_dropout_drops_only_where_it_is_asked_for():
    attention, x = make(causal=True), random(2, 7, 8)
    assert torch.equal(attention(x, x, dropout=0.0), attention(x, x))
    with torch.random.fork_rng():
        assert not torch.allclose(attention(x, x, dropout=0.5), attention(x, x))


# ---- the cache ---------------------------------------------------------------------------------


def test_an_empty_cache_has_no_positions():
    assert KeyValues().length == 0
    assert DecoderCache().length == 0


def test_a_layer_of_the_cache_is_always_the_same_object():
    cache = DecoderCache()
    assert cache.layer(3) is cache.layer(3)
    assert cache.layer(3) is not cache.layer(4)


def test_a_fork_leaves_the_original_unextended():
    cache, first = DecoderCache(length=2), random(1, 2, 2, 4)
    with torch.no_grad():  # so that there is room to write into
        cache.layer(0).extend_(first[:, :, :1], first[:, :, :1])
        cache.layer(0).extend_(first[:, :, 1:], first[:, :, 1:])
        forks = cache.fork(), cache.fork()
        for seed, fork in enumerate(forks, start=1):
            new = random(1, 2, 3, 4, seed=seed)
            keys, _ = fork.layer(0).extend_(new, new)
            fork.layer(1)
            fork.length += 3
            assert (fork.layer(0).length, keys.shape[2]) == (5, 5)
            assert torch.equal(keys, torch.cat([first, new], dim=2))
    assert (cache.length, cache.layer(0).length, list(cache.layers)) == (2, 2, [0])
    own, _ = cache.layer(0).extend_(first[:, :, :0], first[:, :, :0])
    assert torch.equal(own, first)
    assert torch.equal(forks[0].layer(0).buffer[0, :, :, 2:5], random(1, 2, 3, 4, seed=1))


@pytest.mark.parametrize("gradient", [True, False])
def test_a_cache_holds_what_was_appended_whether_it_grows_in_place_or_not(gradient: bool):
    keys, values = random(2, 2, 9, 4), random(2, 2, 9, 4, seed=1)
    past = KeyValues()
    with torch.set_grad_enabled(gradient):
        for start, end in ((0, 1), (1, 2), (2, 3), (3, 7), (7, 8), (8, 9)):
            found = past.extend_(keys[:, :, start:end], values[:, :, start:end])
            assert torch.equal(found[0], keys[:, :, :end])
            assert torch.equal(found[1], values[:, :, :end])
    rows = torch.tensor([1, 1, 0])
    taken = past.take(rows).extend_(keys[rows, :, :1], values[rows, :, :1])
    assert torch.equal(taken[0], torch.cat([keys[rows], keys[rows, :, :1]], dim=2))


def test_a_cache_made_in_inference_mode_can_be_extended_outside():
    keys, past = random(1, 2, 4, 4), KeyValues()
    with torch.inference_mode():
        past.extend_(keys[:, :, :2].clone(), keys[:, :, :2].clone())
        past.extend_(keys[:, :, 2:3].clone(), keys[:, :, 2:3].clone())
    with torch.no_grad():
        found, _ = past.extend_(keys[:, :, 3:], keys[:, :, 3:])
    assert torch.equal(found, keys)
