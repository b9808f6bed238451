import copy
import json
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from benchmarks.paper import finetune
from clvq_lens.host.loading import from_hf
from tests.hosts import D_VOCAB, text_of, tokenizer, words

LENGTHS = (3, 9, 1, 5, 2, 7, 4)
TEXTS = [text_of(words(n, seed=n)) for n in LENGTHS]


@pytest.fixture
def body() -> BertForMaskedLM:
    torch.manual_seed(0)
    config = BertConfig(
        **{"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2},
        **{"intermediate_size": 32, "vocab_size": D_VOCAB, "max_position_embeddings": 48},
        attn_implementation="eager",
    )
    return BertForMaskedLM(config).eval()


def test_the_bridge_classifies_as_the_model_that_was_fine_tuned(body, monkeypatch):
    monkeypatch.setattr(finetune, "BATCH", 3)
    head = torch.nn.Linear(16, 3)
    bridge = from_hf(copy.deepcopy(body), tokenizer("bert"))
    classifier = finetune.Classifier(bridge, head.weight.detach(), head.bias.detach(), {})
    expected = finetune._logits(tokenizer("bert"), body, head, TEXTS)
    torch.testing.assert_close(classifier.logits(TEXTS), expected)
    one = body.bert(**tokenizer("bert")(TEXTS[1], return_tensors="pt")).last_hidden_state
    torch.testing.assert_close(expected[1], head(one[0, 0]), msg="in the order of the texts")


@pytest.mark.parametrize("seed", [None, 0])
def test_every_text_is_in_one_batch_with_its_own_tokens(seed, monkeypatch):
    monkeypatch.setattr(finetune, "BATCH", 3)
    order = None if seed is None else torch.Generator().manual_seed(seed)
    batches = list(finetune._batches(tokenizer("bert"), TEXTS, order=order))
    assert sorted(torch.cat([index for index, _ in batches]).tolist()) == list(range(len(TEXTS)))
    for index, inputs in batches:
        lengths = [LENGTHS[i] + 2 for i in index]  # and CLS and SEP
        assert inputs["attention_mask"].sum(1).tolist() == lengths
        assert inputs["input_ids"].shape[1] == max(lengths)


def test_long_texts_are_cut():
    [(_, inputs)] = finetune._batches(tokenizer("bert"), ["w7 " * 500], order=None)
    assert inputs["input_ids"].shape == (1, finetune.MAX_TOKENS)


def test_training_lowers_the_loss_and_leaves_embeddings_alone(body, monkeypatch):
    monkeypatch.setattr(finetune, "BATCH", 3)
    before = copy.deepcopy(body.state_dict())
    classes = torch.tensor([0, 1, 0, 1, 0, 1, 0]).numpy()
    head = torch.nn.Linear(16, 2)
    texts = finetune.data.Texts(texts=TEXTS, classes=classes, documents=classes)
    loss_before = _loss(body, head, classes)
    finetune._train(tokenizer("bert"), body, head, texts, 10)
    assert _loss(body, head, classes) < loss_before
    assert not body.training
    word = "bert.embeddings.word_embeddings.weight"
    assert torch.equal(body.state_dict()[word], before[word])
    weight = "bert.encoder.layer.0.output.dense.weight"
    assert not torch.equal(body.state_dict()[weight], before[weight])


def _loss(body, head, classes) -> float:
    logits = finetune._logits(tokenizer("bert"), body, head, TEXTS)
    return torch.nn.functional.cross_entropy(logits, torch.from_numpy(classes)).item()


def test_what_has_been_made_is_not_made_again(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(finetune, "RUNS", tmp_path)
    (tmp_path / "sentiment").mkdir()
    (tmp_path / "sentiment/metrics.json").write_text(json.dumps({}))
    monkeypatch.setattr(finetune, "_untrained", lambda n: pytest.fail("made again"))
    assert finetune.finetune("sentiment") == tmp_path / "sentiment"
