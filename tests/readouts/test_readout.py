"""What a model says about whole texts, against the same computed by hand from its cache."""

import inspect

import pytest
import torch
from torch import nn

from clvq_lens.data.tokens import TokenBatch, one_batch
from clvq_lens.errors import ConfigError, DataError, EmptyCorpusError, LayerOrderError, ShapeError
from clvq_lens.host.host import Host
from clvq_lens.readouts.readout import (
    Readout,
    answers,
    class_logits,
    head,
    last_real,
    read_classes,
    sentence_vectors,
)
from tests.conftest import random_model
from tests.hosts import D_MODEL, KINDS, text_of, words

BY_NAME = {kind.name: kind for kind in KINDS}
OF_ENCODERS = [name for name in ("hooked-encoder", "bridge-bert") if name in BY_NAME]
CAUSAL = [name for name in ("hooked-llama", "bridge-gpt2") if name in BY_NAME]
W, B = torch.randn(3, D_MODEL, generator=torch.Generator().manual_seed(5)), torch.arange(3.0)


def opened(name):
    """A host, and three texts of different lengths in one batch."""
    host = Host(BY_NAME[name].model())
    return host, one_batch(host, [text_of(words(n, seed=n)) for n in (7, 3, 5)])


def batch_of(attended: str, real: str) -> TokenBatch:
    """One text a word; 1 where it has a token, or a real one."""
    masks = [
        torch.tensor([[c == "1" for c in row] for row in rows.split()]) for rows in (attended, real)
    ]
    return TokenBatch(torch.zeros(masks[0].shape).long(), *masks, tuple(range(len(masks[0]))))


def stream(host, batch, layer):
    name = host.resolve(layer)
    return host.activations(batch.tokens, batch.attended, [name])[name]


# ---- sentence vectors ----------------------------------------------------------------------------


def test_a_sentence_vector_is_that_of_cls_of_the_last_real_token_or_the_mean_of_real_ones():
    values = torch.arange(10.0).reshape(2, 5, 1)
    batch = batch_of("11111 11100", "01110 01000")  # [CLS] words [SEP], padding
    assert sentence_vectors(values, batch, "cls").flatten().tolist() == [0, 5]
    assert sentence_vectors(values, batch, "last").flatten().tolist() == [3, 6]
    assert sentence_vectors(values, batch, "mean").flatten().tolist() == [2, 6]


def test_cls_is_the_first_token_of_a_text_whatever_stands_before_it():
    values = torch.arange(5.0).reshape(1, 5, 1)
    assert sentence_vectors(values, batch_of("00111", "00010"), "cls").item() == 2


@pytest.mark.parametrize("sentence", ["cls", "last", "mean"])
def test_a_sentence_vector_hears_its_own_tokens_only(sentence):
    batch = batch_of("11111 11100", "01110 01000")
    values = torch.full((2, 5, 2), torch.nan)
    values[batch.attended] = 1.0
    values.requires_grad_()
    vectors = sentence_vectors(values, batch, sentence)
    assert torch.isfinite(vectors).all()
    [gradient] = torch.autograd.grad(vectors[0].sum(), values)
    heard = {"cls": "10000", "last": "00010", "mean": "01110"}[sentence]
    assert [bool(g) for g in gradient[0].any(-1)] == [c == "1" for c in heard]
    assert not gradient[1].any()


def test_texts_without_what_a_vector_needs_are_refused():
    values = torch.zeros(2, 3, 1)
    with pytest.raises(DataError, match=r"Text 1 begins with a real token.* sentence='last'"):
        sentence_vectors(values, batch_of("111 111", "011 111"), "cls")
    for sentence in ("last", "mean"):
        with pytest.raises(EmptyCorpusError, match="Text 0 has no real token"):
            sentence_vectors(values, batch_of("110 111", "000 011"), sentence)
    for unchecked in (
        lambda: inspect.unwrap(sentence_vectors)(values, batch_of("11 11", "01 01"), "first"),
        lambda: inspect.unwrap(head)(W, layer=1, sentence="first"),
    ):
        with pytest.raises(ConfigError, match=r"sentence is 'first'.*'last', 'mean'"):
            unchecked()


# ---- heads ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("sentence", ["cls", "last", "mean"])
@pytest.mark.parametrize("name", OF_ENCODERS)
def test_a_head_is_linear_in_the_sentence_vector_of_its_layer(name, sentence):
    host, batch = opened(name)
    vectors = sentence_vectors(stream(host, batch, 2), batch, sentence)
    found = read_classes(host, head(W, B, layer=2, sentence=sentence), batch)
    torch.testing.assert_close(found, vectors @ W.T + B)
    without = read_classes(host, head(W, layer=2, sentence=sentence), batch)
    torch.testing.assert_close(without, vectors @ W.T)


def test_a_head_may_be_any_module_and_is_copied_without_its_dropout():
    host, batch = opened(OF_ENCODERS[-1])
    module = nn.Sequential(nn.Linear(D_MODEL, 8), nn.Tanh(), nn.Dropout(0.9), nn.Linear(8, 2))
    readout = head(module, layer=1)
    assert module.training
    assert isinstance(readout, Readout)
    expected = module.eval()(stream(host, batch, 1)[:, 0])
    nn.init.zeros_(module[3].weight)
    torch.testing.assert_close(read_classes(host, readout, batch), expected.detach())


def test_a_head_without_parameters_and_one_in_another_dtype_give_float32():
    host, batch = opened(OF_ENCODERS[-1])
    vectors = stream(host, batch, 1)[:, 0]
    for module in (nn.Softmax(1), nn.Linear(D_MODEL, 2).double(), nn.Linear(D_MODEL, 2).bfloat16()):
        found = read_classes(host, head(module, layer=1), batch)
        assert found.dtype == torch.float32
        dtype = next((p.dtype for p in module.parameters()), torch.float32)
        torch.testing.assert_close(found, module(vectors.to(dtype)).float().detach())


def test_a_head_that_does_not_fit_is_refused():
    host, batch = opened(OF_ENCODERS[-1])
    with pytest.raises(ConfigError, match="module has its own bias"):
        head(nn.Linear(4, 2), torch.zeros(2), layer=1)
    with pytest.raises(ShapeError, match=r"shape \[3, 16\] and a bias of shape \[2\]"):
        inspect.unwrap(head)(W, torch.zeros(2), layer=1)
    with pytest.raises(ShapeError, match=r"width 5, but 'blocks.1.hook_resid_post' has width 16"):
        read_classes(host, head(torch.zeros(2, 5), layer=1), batch)
    with pytest.raises(ShapeError, match=r"returned shape \[3, 1\].* two or more classes"):
        read_classes(host, head(W[:1], layer=1), batch)
    with pytest.raises(ConfigError, match=r"causal model the first token sees no other"):
        read_classes(Host(random_model()), head(W, layer=1), batch)


# ---- answers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CAUSAL)
def test_answers_are_next_token_logits_after_the_last_real_token(name):
    host, batch = opened(name)
    a, b, c = (host.vocabulary.id_of(token) for token in ("w7", "w9", "w20"))
    logits = host.run(batch.tokens, batch.attended)[torch.arange(3), last_real(batch)]
    readout = answers(["w7", ["w9", c]])
    expected = torch.stack([logits[:, a], torch.logsumexp(logits[:, [b, c]], 1)], 1)
    torch.testing.assert_close(read_classes(host, readout, batch), expected)
    full = host.run(batch.tokens, batch.attended)
    torch.testing.assert_close(readout.classes(full, batch, host=host), expected)
    assert torch.equal(readout.columns(batch), last_real(batch).unsqueeze(1))


def test_probabilities_of_answers_are_those_of_their_tokens_made_to_add_up():
    host, batch = opened(CAUSAL[-1])
    found = read_classes(host, answers([[7, 8], [9], [10, 11, 12]]), batch).softmax(1)
    logits = host.run(batch.tokens, batch.attended)[torch.arange(3), last_real(batch)]
    p = logits.softmax(1)
    sums = torch.stack([p[:, 7:9].sum(1), p[:, 9], p[:, 10:13].sum(1)], 1)
    torch.testing.assert_close(found, sums / sums.sum(1, keepdim=True))


def test_answers_that_cannot_be_told_apart_or_read_are_refused():
    for tokens in (["w7"], ["w7", []]):
        with pytest.raises(ConfigError, match="two classes or more, with at least one"):
            answers(tokens)
    host, batch = opened(CAUSAL[-1])
    with pytest.raises(ConfigError, match="Token 9 is an answer twice"):
        read_classes(host, answers([["w7", "w9"], 9]), batch)
    with pytest.raises(DataError, match="not one token"):
        read_classes(host, answers(["w7", "w7 w9"]), batch)
    host, batch = opened(OF_ENCODERS[-1])
    with pytest.raises(ConfigError, match=r"an encoder does not predict.* head\("):
        read_classes(host, answers(["w7", "w9"]), batch)


# ---- with activations replaced -------------------------------------------------------------------


def readouts(host):
    if host.causal:
        return [head(W, layer=3, sentence="last"), answers(["w7", "w9"])]
    return [head(W, layer=3), head(W, layer=1, sentence="mean")]


@pytest.mark.parametrize("name", CAUSAL + OF_ENCODERS)
def test_activations_replaced_by_themselves_change_nothing(name):
    host, batch = opened(name)
    for readout in readouts(host):
        values = stream(host, batch, 1)
        found = class_logits(host, readout, host.resolve(1), values, batch)
        torch.testing.assert_close(found, read_classes(host, readout, batch))


@pytest.mark.parametrize("name", CAUSAL + OF_ENCODERS)
def test_activations_replaced_do_what_a_hook_does(name):
    host, batch = opened(name)
    values = torch.randn_like(stream(host, batch, 1))
    for readout in readouts(host):
        found = class_logits(host, readout, host.resolve(1), values, batch)
        with host.model.hooks(fwd_hooks=[(host.resolve(1), lambda value, hook: values)]):
            torch.testing.assert_close(found, read_classes(host, readout, batch))


def test_classes_are_differentiable_in_what_replaces_the_activations():
    host, batch = opened(CAUSAL[-1])
    values = stream(host, batch, 1).double()
    for readout in readouts(host):
        at = values.clone().requires_grad_()
        logits = class_logits(host, readout, host.resolve(1), at, batch)
        [gradient] = torch.autograd.grad(logits[0, 1], at)
        direction = torch.randn(values.shape, generator=torch.Generator().manual_seed(3)).double()
        ahead, behind = (
            class_logits(host, readout, host.resolve(1), values + step * direction, batch)[0, 1]
            for step in (1e-2, -1e-2)
        )
        slope = float((ahead - behind).detach() / 2e-2)
        assert float((gradient * direction).sum()) == pytest.approx(slope, rel=0.02)
        assert not gradient[1:].any()


def test_only_the_layers_between_are_computed():
    host, batch = opened(CAUSAL[0])
    values, ran = stream(host, batch, 1), []
    for index, block in enumerate(host.model.blocks):
        block.register_forward_pre_hook(lambda *_, index=index: ran.append(index))
    class_logits(host, head(W, layer=2, sentence="last"), host.resolve(1), values, batch)
    assert ran == [2]


def test_a_readout_below_the_activations_is_refused():
    host, batch = opened(CAUSAL[0])
    values = stream(host, batch, 2)
    with pytest.raises(LayerOrderError, match=r"'blocks.1.*', which comes before 'blocks.2"):
        class_logits(host, head(W, layer=1, sentence="mean"), host.resolve(2), values, batch)
