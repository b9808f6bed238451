import json
import math
import sys

import pytest
import torch
from safetensors.torch import load_file

from clvq_lens.host.loading import hooked_class
from clvq_lens.toy import generate, train, world

needs_hooked = pytest.mark.skipif(
    hooked_class("HookedTransformer") is None, reason="TransformerLens 4 has no HookedTransformer"
)


@pytest.fixture
def tiny_run(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "N_HELD_OUT", 8)
    n_threads = torch.get_num_threads()

    def run(name: str, *options: str):
        out = tmp_path / name
        argv = ["train", "--out", str(out), "--n-steps", "3", "--batch-size", "4", *options]
        monkeypatch.setattr(sys, "argv", argv)
        train.main()
        return out

    yield run
    torch.set_num_threads(n_threads)


@needs_hooked
def test_training_writes_the_files_that_load_reads(tiny_run, monkeypatch):
    out = tiny_run("a")
    assert {file.name for file in out.iterdir()} == {file.name for file in world.DATA.iterdir()}
    monkeypatch.setattr(world, "DATA", out)
    model = world.load(n_texts=4).model
    recorded = json.loads((out / "config.json").read_text())["held_out"]
    held_out = generate(8, seed=recorded["seed"])
    assert train.loss_on(model, held_out) == pytest.approx(
        recorded["loss_nats_per_token"], abs=1e-4
    )


@needs_hooked
def test_the_same_seed_trains_the_same_weights(tiny_run):
    one = load_file(tiny_run("a") / "model.safetensors")
    two = load_file(tiny_run("b") / "model.safetensors")
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_only_parameters_are_stored():
    stored = load_file(world.DATA / "model.safetensors")
    assert not [name for name in stored if "mask" in name or "IGNORE" in name]


def test_the_learning_rate_warms_up_and_falls_to_zero():
    recipe = train.Recipe(n_steps=100, warmup_steps=10)
    factors = [train.learning_rate_factor(step, recipe) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == pytest.approx(1)
    assert factors.index(max(factors)) in (9, 10)
    assert factors[-1] < 0.001


def test_a_batch_holds_whole_texts_between_bos_and_eos():
    vocabulary = world.load_tokenizer(world.DATA).get_vocab()
    batch = next(train.batches(train.Recipe(batch_size=8), vocabulary))
    assert len(batch) == 8
    assert (batch[:, 0] == vocabulary[train.BOS]).all()
    assert ((batch == vocabulary[train.EOS]).sum(1) == 1).all()


def test_no_training_text_is_among_those_that_load_gives():
    vocabulary = world.load_tokenizer(world.DATA).get_vocab()
    words = {index: word for word, index in vocabulary.items()}
    batch = next(train.batches(train.Recipe(batch_size=64), vocabulary))
    special = {train.PAD, train.BOS, train.EOS}
    seen = {" ".join(words[i] for i in row if words[i] not in special) for row in batch.tolist()}
    assert len(seen) == 64
    assert not seen & set(generate(1000, seed=0))


def test_the_loss_of_a_model_that_knows_nothing_is_that_of_the_vocabulary_size():
    model = world.load(n_texts=1).model
    with torch.no_grad():
        model.unembed.W_U.zero_()
        model.unembed.b_U.zero_()
    texts = generate(20, seed=0)
    assert train.loss_on(model, texts) == pytest.approx(math.log(model.cfg.d_vocab), abs=1e-4)
