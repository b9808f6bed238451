"""The data sets of the paper and Rotten Tomatoes, read from ``CLVQ_SHARED``."""

import html
import json
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from benchmarks.stories import SHARED

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks/results"
KEPT = RESULTS / "paper"
"""What was measured, so that pages can be written and runs go on."""
MAX_WORDS = 48  # about 64 tokens
_ROTTEN_HELD_OUT = 1_000  # of each class
_WORDS_OF_PARAGRAPH = 192  # about 240 tokens of SmolLM2
_FEWEST_WORDS_OF_PARAGRAPH = 16
_HELD_OUT_EVERY = 8  # articles of WikiText-2
_HELD_OUT_PARAGRAPHS, _HELD_OUT_NEWS, _TRAINING_NEWS = 66, 240, 5_000
_TITLE = re.compile(r"= [^=].*[^=] =")


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Texts, the class of each, and which of them belong together.

    Attributes:
        texts: Texts, cut to so many words.
        classes: The class of each text, as a number; None: unknown.
        documents: The group of each text, for cross-validation; texts of one review, and equal
            texts, are in the same.
    """

    texts: list[str]
    classes: Int[np.ndarray, " n"] | None
    documents: Int[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, index: Int[np.ndarray, " m"]) -> "Texts":
        """Some of the texts, in the order given."""
        classes = None if self.classes is None else self.classes[index]
        texts = [self.texts[i] for i in index]
        return Texts(texts=texts, classes=classes, documents=self.documents[index])

    def sample(self, n: int, *, seed: int) -> "Texts":
        """At most ``n`` random texts, as many of each class, in random order."""
        order = np.random.default_rng(seed).permutation(len(self))
        if self.classes is None:
            return self.take(order[:n])
        classes = self.classes[order]
        numbers, sizes = np.unique(classes, return_counts=True)
        n_of_each = min(n // len(numbers), sizes.min())
        chosen = []
        for number in numbers:
            chosen.append(np.flatnonzero(classes == number)[:n_of_each])
        # Sorted: in the random order, and not class by class.
        return self.take(order[np.sort(np.concatenate(chosen))])


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """Texts to fit on, and others to judge with; no text is in both.

    Attributes:
        name: Name of the data set.
        class_names: The name of each class.
        task: The model that `benchmarks.paper.finetune` makes for it.
        train: Texts to fit on.
        evaluation: Texts to judge with; their classes are always known.
    """

    name: str
    class_names: tuple[str, ...]
    task: str
    train: Texts
    evaluation: Texts


def load(name: str, *, max_words: int = MAX_WORDS) -> DataSet:
    """A data set by name, one of `NAMES`.

    Args:
        name: Name of the data set.
        max_words: Longer texts lose what comes after.
    """
    return _READERS[name](max_words)


def stories() -> tuple[list[str], list[str]]:
    """TinyStories: 800 to fit on, and 117 to judge with."""
    path = SHARED / "data/tinystories/tinystories_917_ascii.json"
    texts = json.loads(path.read_text())
    train = texts[:800]
    return train, [text for text in texts[800:] if text not in set(train)]


def wikitext() -> tuple[list[str], list[str]]:
    """WikiText-2: paragraphs to fit on, and paragraphs of other articles to judge with.

    Headings and paragraphs of less than 16 words are left out, and the others are cut to 192
    words. For SmolLM2 they hold 216,000 and 10,000 tokens.
    """
    train: list[str] = []
    held_out: list[str] = []
    for number, article in enumerate(_articles()):
        paragraphs = held_out if number % _HELD_OUT_EVERY == 0 else train
        paragraphs += [cut(text, _WORDS_OF_PARAGRAPH) for text in article]
    order = np.random.default_rng(0).permutation(len(held_out))
    return _apart(train, [held_out[i] for i in order[:_HELD_OUT_PARAGRAPHS]])


def _articles() -> list[list[str]]:
    """The paragraphs of each article of WikiText-2."""
    articles: list[list[str]] = []
    for line in _lines(SHARED / "data/wikitext-2/valid.txt"):
        text = line.strip()
        if _TITLE.fullmatch(text):
            articles.append([])
        elif not text.startswith("= ") and len(text.split()) >= _FEWEST_WORDS_OF_PARAGRAPH:
            articles[-1].append(text)
    return articles


def news() -> tuple[list[str], list[str]]:
    """AG News without classes: texts to fit on, and others to judge with, as many of each class.

    For SmolLM2 they hold 210,000 and 10,000 tokens.
    """
    loaded = load("ag_news")
    train = loaded.train.sample(_TRAINING_NEWS, seed=0).texts
    return _apart(train, loaded.evaluation.sample(_HELD_OUT_NEWS, seed=0).texts)


def _apart(train: list[str], held_out: list[str]) -> tuple[list[str], list[str]]:
    """Each text once, and none of those to judge with among those to fit on."""
    judged = {key(text): text for text in held_out}
    fitted = {key(text): text for text in train if key(text) not in judged}
    return list(fitted.values()), list(judged.values())


def _eraser_movie(max_words: int) -> DataSet:
    """Sentences of film reviews; the class of those to fit on is unknown."""
    folder = SHARED / "data/eraser_movie"
    sentences, classes, reviews = [], [], []
    for row in json.loads((folder / "movie_dev_subset.json").read_text()):
        sentences.append(row["sentence"])
        classes.append(row["label"])
        reviews.append(row["evidence"]["docid"])
    evaluation = _texts(sentences, classes, max_words, reviews)
    train = _texts(_lines(folder / "movie_train.txt"), None, max_words)
    return _data_set("eraser_movie", ("negative", "positive"), "sentiment", train, evaluation)


def _jigsaw(max_words: int) -> DataSet:
    """Comments on Wikipedia; the texts are abusive."""
    parts = []
    for part in ("train", "dev"):
        sentences, classes = [], []
        for row in json.loads((SHARED / f"data/jigsaw/{part}.json").read_text()):
            sentences.append(row["sentence"])
            classes.append(int(row["label"]))
        parts.append(_texts(sentences, classes, max_words))
    return _data_set("jigsaw", ("civil", "toxic"), "jigsaw", *parts)


def _ag_news(max_words: int) -> DataSet:
    """Headlines and first sentences of news."""
    folder = SHARED / "data/ag_news"
    class_names = tuple(_lines(folder / "classes.txt"))
    parts = []
    for part in ("train", "test"):
        texts, classes = [], []
        for line in _lines(folder / f"{part}.tsv"):
            text, class_name = line.split("\t")
            texts.append(_unescaped(text))
            classes.append(class_names.index(class_name))
        parts.append(_texts(texts, classes, max_words))
    return _data_set("ag_news", class_names, "ag_news", *parts)


def _rotten_tomatoes(max_words: int) -> DataSet:
    """Single sentences of film reviews; the split is ours, for the data have none."""
    folder = SHARED / "data/rotten_tomatoes"
    texts: list[str] = []
    classes: list[int] = []
    for number, end in enumerate(("neg", "pos")):
        lines = _lines(folder / f"rt-polarity.{end}", "latin-1")
        texts += lines
        classes += [number] * len(lines)
    everything = _texts(texts, classes, max_words)
    # Balanced and in random order: the files hold one class each.
    mixed = everything.sample(len(everything), seed=0)
    n_held_out = _ROTTEN_HELD_OUT * 2
    evaluation = mixed.take(np.arange(n_held_out))
    train = mixed.take(np.arange(n_held_out, len(mixed)))
    return _data_set("rotten_tomatoes", ("negative", "positive"), "sentiment", train, evaluation)


_READERS = {
    "eraser_movie": _eraser_movie,
    "jigsaw": _jigsaw,
    "ag_news": _ag_news,
    "rotten_tomatoes": _rotten_tomatoes,
}
NAMES = tuple(_READERS)


def _lines(path: Path, encoding: str = "utf-8") -> list[str]:
    """Lines with something on them; other line ends than "\\n" are part of a text."""
    return [line for line in path.read_text(encoding).split("\n") if line.strip()]


def _unescaped(text: str) -> str:
    """A text of AG News without the remains of its markup: "Turner   Newall", "It #39;s"."""
    text = re.sub(r" ?#(\d+);", r"&#\1;", text.replace("\\", " "))
    return html.unescape(text)


def cut(text: str, n_words: int) -> str:
    """The first words of a text, with single spaces between them."""
    return " ".join(text.split()[:n_words])


def _texts(
    texts: list[str], classes: list[int] | None, max_words: int, reviews: list[str] | None = None
) -> Texts:
    """Cuts the texts, and groups those that are equal or of one review."""
    # Cut first: texts that differ after the cut alone are equal to whoever reads them.
    texts = list(map(partial(cut, n_words=max_words), texts))
    documents = groups(texts, reviews or texts)
    numbers = None if classes is None else np.array(classes)
    return Texts(texts=texts, classes=numbers, documents=documents)


def groups(texts: list[str], reviews: list[str]) -> Int[np.ndarray, " n"]:
    """The group of each text: linked by a review, by an equal text, or by a chain of both."""
    n = len(texts)
    text_of = np.unique(np.array(list(map(key, texts))), return_inverse=True)[1]
    review_of = np.unique(np.array(reviews), return_inverse=True)[1]
    n_texts, n_reviews = text_of.max() + 1, review_of.max() + 1
    size = n_texts + n_reviews
    # A graph of texts and reviews, the reviews numbered after the texts.
    links = coo_array((np.ones(n), (text_of, n_texts + review_of)), shape=(size, size))
    return connected_components(links, directed=False)[1][text_of]


def key(text: str) -> str:
    """Equal for texts that differ in case and spaces only."""
    return " ".join(text.lower().split())


def _data_set(
    name: str, class_names: tuple[str, ...], task: str, train: Texts, evaluation: Texts
) -> DataSet:
    """Takes the texts of the evaluation out of those to fit on."""
    held_out = set(map(key, evaluation.texts))
    unseen = [i for i, text in enumerate(train.texts) if key(text) not in held_out]
    return DataSet(
        name=name,
        class_names=class_names,
        task=task,
        train=train.take(np.array(unseen)),
        evaluation=evaluation,
    )
