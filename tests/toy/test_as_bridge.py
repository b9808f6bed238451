"""The toy model in a bridge: the same model, wherever it runs."""

import socket
import warnings

import pytest
import torch
from safetensors.torch import load_file

from clvq_lens import toy
from clvq_lens.errors import FileFormatError
from clvq_lens.host.loading import hooked_class
from clvq_lens.toy import world
from clvq_lens.toy.as_bridge import build_bridge, gpt2_weights

POINTS = [
    f"blocks.{i}.{name}" for i in range(4) for name in ("attn.hook_pattern", "hook_resid_post")
]
# Of a HookedTransformer: log-probabilities of four words of toy.generate(1, seed=5), those that
# differ most, by 0.0003, where GELU is the approximate one.
LOG_PROBS = {25: -2.711055, 35: -3.276763, 57: -1.015263, 63: -1.407683}
needs_hooked = pytest.mark.skipif(
    hooked_class("HookedTransformer") is None, reason="TransformerLens 4 has no HookedTransformer"
)


@pytest.fixture(scope="module")
def bridged() -> world.ToyWorld:
    return toy.load(n_texts=40, seed=5, host="TransformerBridge")


@torch.no_grad()
def log_probs(model, text: str) -> torch.Tensor:
    tokens = model.to_tokens(text)
    return model(tokens).log_softmax(-1)[0, :-1].gather(1, tokens[0, 1:, None])[:, 0]


def test_the_bridge_gives_the_stored_log_probabilities(bridged):
    found = log_probs(bridged.model, bridged.texts[0])
    assert {place: found[place].item() for place in LOG_PROBS} == pytest.approx(LOG_PROBS, abs=3e-5)


@needs_hooked
def test_both_hosts_compute_the_same_at_every_block(bridged):
    hooked = toy.load(n_texts=40, seed=5, host="HookedTransformer")
    assert type(hooked.model).__name__ == "HookedTransformer"
    tokens = hooked.model.to_tokens(hooked.texts)
    with torch.no_grad():
        expected, theirs = hooked.model.run_with_cache(tokens, names_filter=POINTS)
        logits, mine = bridged.model.run_with_cache(tokens, names_filter=POINTS)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
    for point in POINTS:
        torch.testing.assert_close(mine[point], theirs[point], atol=1e-4, rtol=0)


@needs_hooked
def test_both_hosts_read_texts_alike_and_have_one_name(bridged):
    hooked = toy.load(n_texts=40, seed=5)
    assert hooked.texts == bridged.texts
    assert torch.equal(hooked.model.to_tokens(hooked.texts), bridged.model.to_tokens(bridged.texts))
    assert hooked.model.tokenizer.get_vocab() == bridged.model.tokenizer.get_vocab()
    for option in ("model_name", "n_layers", "d_model", "d_head", "d_mlp", "d_vocab", "n_ctx"):
        assert getattr(hooked.model.cfg, option) == getattr(bridged.model.cfg, option)


def test_a_text_is_bos_and_one_token_per_word(bridged):
    text = bridged.texts[0]
    assert bridged.model.to_str_tokens(text) == ["<bos>", *text.split()]


def test_the_bridge_is_the_toy_model_in_eval_mode(bridged):
    assert type(bridged.model).__name__ == "TransformerBridge"
    assert bridged.model.cfg.model_name == "toy-world"
    assert not any(module.training for module in bridged.model.modules())


def test_without_hooked_transformer_the_toy_model_is_a_bridge(monkeypatch):
    monkeypatch.setattr(world, "hooked_class", lambda name: None)
    assert type(toy.load(n_texts=1).model).__name__ == "TransformerBridge"


def test_the_bridge_is_built_in_silence_without_network_or_randomness(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("somebody wants to connect")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    before = torch.random.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        toy.load(n_texts=1, host="TransformerBridge")
    assert torch.equal(before, torch.random.get_rng_state())


def test_training_the_bridge_drops_nothing_out(bridged):
    before = log_probs(bridged.model, bridged.texts[0])
    bridged.model.train()
    after = log_probs(bridged.model, bridged.texts[0])
    bridged.model.eval()
    assert torch.equal(before, after)


def test_generation_with_a_cache_ends_a_story_where_the_model_does(bridged):
    tokens = bridged.model.to_tokens(bridged.texts[0])
    half = tokens[:, : tokens.shape[1] // 2]
    options = {"max_new_tokens": 12, "do_sample": False, "verbose": False}
    with_cache = bridged.model.generate(half, use_past_kv_cache=True, **options)
    without = bridged.model.generate(half, use_past_kv_cache=False, **options)
    assert torch.equal(with_cache, without)


def test_no_weight_is_left_out_or_used_twice():
    weights = load_file(world.DATA / "model.safetensors")
    renamed = gpt2_weights(weights, 4)
    assert sum(w.numel() for w in renamed.values()) == sum(w.numel() for w in weights.values())


def test_a_missing_weight_is_named():
    weights = load_file(world.DATA / "model.safetensors")
    del weights["blocks.2.attn.b_O"]
    config = {"n_layers": 4}
    with pytest.raises(FileFormatError, match=r"no 'blocks\.2\.attn\.b_O'\. Reinstall"):
        build_bridge(config, world.load_tokenizer(world.DATA), weights, "cpu")
