import json
import subprocess
import sys
import warnings

import pytest
import torch
from torch import Tensor

from clvq_lens import toy
from clvq_lens.errors import ConfigError, FileFormatError, MissingDependencyError
from clvq_lens.toy import AMBIGUOUS, entropy, generate, token_labels, world
from clvq_lens.toy.train import BOS, EOS, PAD, UNK, loss_on

EARLY = ["bat", "it", "one", "orange", "sheep", "happy", "six", "they"]  # known after block 1
LATE = ["bank", "there", "put"]  # not told apart by centroids before the last block


@pytest.fixture(scope="module")
def toy_world() -> world.ToyWorld:
    return toy.load(n_texts=800, seed=7)


def test_importing_the_toy_room_loads_neither_torch_nor_transformer_lens():
    program = (
        "import sys, clvq_lens.toy; clvq_lens.toy.token_labels(clvq_lens.toy.generate(3, seed=0));"
        "sys.exit(bool({'torch', 'transformers', 'transformer_lens'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_load_gives_a_model_in_eval_mode_and_texts(toy_world):
    model, texts = toy_world
    assert not model.training
    assert model.cfg.n_layers >= 4
    assert texts[:50] == generate(50, seed=7)


def test_it_says_in_one_line_what_it_is_and_shows_a_text():
    model = toy.load(n_texts=1).model
    shown = repr(world.ToyWorld(model, ["<b>a</b>\n&", "b"]))
    assert shown == f"ToyWorld({type(model).__name__} with 4 layers, 2 texts)"
    html = world.ToyWorld(model, ["<b>a</b>\n&", "b"])._repr_html_()
    assert "<i>&lt;b&gt;a&lt;/b&gt;\n&amp;</i>" in html
    assert "<i>" not in world.ToyWorld(model, [])._repr_html_()


def test_load_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        toy.load(n_texts=1)


def test_load_leaves_the_global_random_state_alone():
    before = torch.random.get_rng_state()
    toy.load(n_texts=1)
    assert torch.equal(before, torch.random.get_rng_state())


def test_every_label_belongs_to_one_token_of_the_model(toy_world):
    model, texts = toy_world
    for text, row in zip(texts[:100], token_labels(texts[:100]), strict=True):
        tokens = model.to_tokens(text)
        assert tokens.shape == (1, 1 + len(row))
        assert model.to_str_tokens(text) == [BOS, *text.split()]


def test_every_word_of_the_grammar_is_a_token_of_its_own(toy_world):
    tokenizer = toy_world.model.tokenizer
    words = {word for text in generate(1000, seed=11) for word in text.split()}
    assert words == set(tokenizer.get_vocab()) - {PAD, BOS, EOS, UNK}


def test_special_tokens_are_distinct(toy_world):
    tokenizer = toy_world.model.tokenizer
    ids = [tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id]
    assert len({*ids, tokenizer.unk_token_id}) == 4


def test_the_files_of_the_model_stay_below_three_megabytes():
    assert sum(file.stat().st_size for file in world.DATA.iterdir()) <= 3_000_000


def test_held_out_loss_is_close_to_the_entropy_of_the_grammar(toy_world):
    texts = toy_world.texts[:300]
    gap = loss_on(toy_world.model, texts) - entropy(texts)
    assert 0 < gap < 0.005


def test_the_recorded_loss_and_entropy_are_those_of_the_shipped_files(toy_world):
    recorded = json.loads((world.DATA / "config.json").read_text())["held_out"]
    texts = generate(300, seed=recorded["seed"])  # the first of those it was measured on
    gap = loss_on(toy_world.model, texts) - entropy(texts)
    assert gap == pytest.approx(recorded["gap_nats_per_token"], abs=0.001)
    assert entropy(texts) == pytest.approx(recorded["entropy_nats_per_token"], abs=0.02)


def test_a_finished_story_is_followed_by_the_end_token(toy_world):
    model, texts = toy_world
    last = model(texts[0])[0, -1]
    assert last.argmax() == model.tokenizer.eos_token_id


def nearest_centroid_accuracy(x: Tensor, concepts: list[str]) -> float:
    names = sorted(set(concepts))
    y = torch.tensor([names.index(concept) for concept in concepts])
    train = torch.arange(len(y)) % 2 == 0
    centroids = torch.stack([x[train & (y == i)].mean(0) for i in range(len(names))])
    nearest = torch.cdist(x[~train], centroids).argmin(1)
    return (nearest == y[~train]).float().mean().item()


@pytest.fixture(scope="module")
def accuracies(toy_world) -> dict[str, dict[str, float]]:
    """Of the concept of each ambiguous word, read from its activations, before and in the model."""
    model, texts = toy_world
    words = [text.split() for text in texts]
    concepts = token_labels(texts)
    hooks = ["blocks.0.hook_resid_pre", "blocks.1.hook_resid_post", "blocks.3.hook_resid_post"]
    with torch.no_grad():
        _, cache = model.run_with_cache(texts, names_filter=hooks)
    found: dict[str, dict[str, float]] = {}
    for word in AMBIGUOUS:
        places = [(i, j) for i, row in enumerate(words) for j, w in enumerate(row) if w == word]
        rows, columns = torch.tensor(places).T
        truth = [concepts[i][j] for i, j in places]
        found[word] = {
            hook: nearest_centroid_accuracy(cache[hook][rows, columns + 1], truth) for hook in hooks
        }
    return found


@pytest.mark.parametrize("word", EARLY + LATE)
def test_the_embedding_does_not_tell_what_an_ambiguous_word_means(accuracies, word: str):
    assert accuracies[word]["blocks.0.hook_resid_pre"] < 0.75


@pytest.mark.parametrize("word", EARLY)
def test_the_middle_of_the_model_knows_what_a_word_means(accuracies, word: str):
    assert accuracies[word]["blocks.1.hook_resid_post"] > 0.9


@pytest.mark.parametrize("word", LATE)
def test_the_last_block_knows_what_a_word_means(accuracies, word: str):
    assert accuracies[word]["blocks.3.hook_resid_post"] > 0.9


def test_concepts_appear_at_different_depths(accuracies):
    assert accuracies["bank"]["blocks.1.hook_resid_post"] < 0.75


def test_without_hooked_transformer_the_error_names_the_remedy(monkeypatch):
    monkeypatch.setattr(world, "hooked_class", lambda name: None)
    with pytest.raises(MissingDependencyError, match="Leave host out, or run: pip install"):
        toy.load(n_texts=1, host="HookedTransformer")


def test_an_unknown_host_is_refused():
    with pytest.raises(ConfigError, match=r"no host 'Hooked'\. Pass one of .*'TransformerBridge'"):
        toy.load(n_texts=1, host="Hooked")


def test_weights_of_another_model_are_refused():
    with pytest.raises(FileFormatError, match=r"differ in: .*weight.*Reinstall"):
        world.fill(torch.nn.Linear(1, 1), {})
