from pathlib import Path

import numpy as np
import pytest

from benchmarks.paper import data


@pytest.fixture(autouse=True)
def _where(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "SHARED", shared)


def test_equal_texts_of_two_reviews_put_the_reviews_into_one_group():
    texts = ["a b", "c", "A  b", "d", "e"]
    groups = data.groups(texts, ["one", "one", "two", "two", "three"])
    assert len({*groups[:4]}) == 1
    assert groups[4] != groups[0]


def test_without_reviews_only_equal_texts_are_together():
    texts = ["a", "b", "a", "c"]
    groups = data.groups(texts, texts)
    assert groups[0] == groups[2]
    assert len(set(groups)) == 3


@pytest.mark.parametrize("name", data.NAMES)
def test_no_text_is_both_fitted_on_and_judged_with(name: str):
    loaded = data.load(name)
    train = {data.key(text) for text in loaded.train.texts}
    assert train.isdisjoint(data.key(text) for text in loaded.evaluation.texts)
    assert max(len(text.split()) for text in loaded.train.texts) <= data.MAX_WORDS


@pytest.mark.parametrize(
    ("name", "n_train", "n_evaluation", "n_classes"),
    [
        ("eraser_movie", 13_877, 856, 2),  # one of 13,878 sentences is among the labeled ones
        ("jigsaw", 9_000, 784, 2),
        ("ag_news", 9_988, 7_600, 4),
        ("rotten_tomatoes", 8_662, 2_000, 2),
    ],
)
def test_data_sets_have_the_sizes_that_results_state(
    name: str, n_train: int, n_evaluation: int, n_classes: int
):
    loaded = data.load(name)
    assert (len(loaded.train), len(loaded.evaluation)) == (n_train, n_evaluation)
    assert len(loaded.class_names) == n_classes
    assert set(loaded.evaluation.classes.tolist()) == set(range(n_classes))


def test_sentences_of_a_review_are_one_document():
    evaluation = data.load("eraser_movie").evaluation
    assert len(set(evaluation.documents)) == 193
    of_text: dict[str, set[int]] = {}
    for text, document in zip(evaluation.texts, evaluation.documents, strict=True):
        of_text.setdefault(data.key(text), set()).add(int(document))
    assert len(of_text) < 856
    assert all(len(documents) == 1 for documents in of_text.values())


def test_classes_are_those_of_the_files():
    evaluation = data.load("ag_news").evaluation
    assert evaluation.texts[0].startswith("Unions representing workers at Turner Newall say")
    assert data.load("ag_news").class_names[evaluation.classes[0]] == "Business"
    train = data.load("rotten_tomatoes").train
    classes = [train.classes[i] for i, text in enumerate(train.texts) if "worst film" in text]
    assert classes.count(0) > classes.count(1)


def test_a_sample_is_balanced_mixed_and_the_same_for_the_same_seed():
    texts = data.Texts(
        texts=[str(i) for i in range(100)],
        classes=np.array([0] * 80 + [1] * 20),
        documents=np.arange(100),
    )
    sample = texts.sample(30, seed=3)
    assert np.bincount(sample.classes).tolist() == [15, 15]
    assert len(set(sample.texts)) == 30
    assert sample.classes.tolist() != sorted(sample.classes)
    assert sample.documents.tolist() == [int(text) for text in sample.texts]
    assert sample.texts == texts.sample(30, seed=3).texts != texts.sample(30, seed=4).texts
    assert np.bincount(texts.sample(90, seed=3).classes).tolist() == [20, 20]


def test_markup_is_taken_out_of_news():
    assert data._unescaped("It #39;s over\\and") == "It's over and"
    assert data._unescaped("AT&amp;T") == "AT&T"


def test_stories_are_divided():
    train, held_out = data.stories()
    assert (len(train), len(held_out)) == (800, 117)
    assert set(train).isdisjoint(held_out)


@pytest.mark.parametrize(
    ("load", "n_train", "n_held_out", "most_words"),
    [(data.wikitext, 1_466, 66, 192), (data.news, 4_998, 240, data.MAX_WORDS)],
)
def test_texts_for_a_language_model_are_distinct_and_apart(
    load, n_train: int, n_held_out: int, most_words: int
):
    train, held_out = load()
    assert (len(train), len(held_out)) == (n_train, n_held_out)
    keys = set(map(data.key, train + held_out))
    assert len(keys) == len(train) + len(held_out)
    lengths = [len(text.split()) for text in train + held_out]
    assert max(lengths) == most_words
    assert (load(), load()) == ((train, held_out), (train, held_out))


def test_paragraphs_of_an_article_are_on_one_side():
    train, held_out = data.wikitext()
    assert not any(text.startswith("=") for text in train + held_out)
    articles = data._articles()
    assert len(articles) == 60
    side_of_start = dict.fromkeys((text[:80] for text in train), "train")
    side_of_start |= dict.fromkeys((text[:80] for text in held_out), "held out")
    for article in articles:
        sides = {side_of_start.get(data.cut(text, 192)[:80]) for text in article}
        assert len(sides - {None}) <= 1
    assert min(len(text.split()) for text in train) == 16
