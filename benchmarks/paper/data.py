"""The data sets of the paper and Rotten Tomatoes, read from ``CLVQ_SHARED``."""

import html
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

ROOT = Path(__file__).parents[2]
SHARED = Path(os.environ.get("CLVQ_SHARED", ROOT.parent / "shared"))
MAX_WORDS = 48  # about 64 tokens
_ROTTEN_HELD_OUT = 1_000  # of each class


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Texts, what each is, and which of them belong together.

    Attributes:
        texts: Cut to so many words.
        labels: The class of each text; None: unknown.
        documents: The group of each text, for cross-validation; texts of one review, and equal
            texts, are in the same.
    """

    texts: list[str]
    labels: Int[np.ndarray, " n"] | None
    documents: Int[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, index: Int[np.ndarray, " m"]) -> "Texts":
        """Some of the texts, in the order given."""
        labels = None if self.labels is None else self.labels[index]
        texts = [self.texts[i] for i in index]
        return Texts(texts=texts, labels=labels, documents=self.documents[index])

    def sample(self, n: int, *, seed: int) -> "Texts":
        """At most ``n`` random texts, as many of each class, in random order."""
        order = np.random.default_rng(seed).permutation(len(self))
        if self.labels is None:
            return self.take(order[:n])
        labels = self.labels[order]
        classes, sizes = np.unique(labels, return_counts=True)
        each = min(n // len(classes), sizes.min())
        chosen = np.concatenate([np.flatnonzero(labels == c)[:each] for c in classes])
        return self.take(order[np.sort(chosen)])


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """Texts to fit on, and others to judge with; no text is in both.

    Attributes:
        name: Of the data set.
        classes: The name of each label.
        task: The model that `benchmarks.paper.finetune` makes for it.
        train: To fit on.
        evaluation: To judge with; always labelled.
    """

    name: str
    classes: tuple[str, ...]
    task: str
    train: Texts
    evaluation: Texts


def load(name: str, *, max_words: int = MAX_WORDS) -> DataSet:
    """A data set by name, one of `NAMES`.

    Args:
        name: Of the data set.
        max_words: Longer texts lose what comes after.
    """
    return _READERS[name](max_words)


def stories() -> tuple[list[str], list[str]]:
    """TinyStories: 800 to fit on, and 117 to judge with."""
    path = SHARED / "data/tinystories/tinystories_917_ascii.json"
    texts = json.loads(path.read_text())
    train = texts[:800]
    return train, [text for text in texts[800:] if text not in set(train)]


def _eraser_movie(max_words: int) -> DataSet:
    """Sentences of film reviews; those to fit on have no label."""
    folder = SHARED / "data/eraser_movie"
    rows = json.loads((folder / "movie_dev_subset.json").read_text())
    reviews = [row["evidence"]["docid"] for row in rows]
    evaluation = _texts(
        [row["sentence"] for row in rows], [row["label"] for row in rows], max_words, reviews
    )
    train = _texts(_lines(folder / "movie_train.txt"), None, max_words)
    return _data_set("eraser_movie", ("negative", "positive"), "sentiment", train, evaluation)


def _jigsaw(max_words: int) -> DataSet:
    """Comments on Wikipedia; the texts are abusive."""
    parts = []
    for part in ("train", "dev"):
        rows = json.loads((SHARED / f"data/jigsaw/{part}.json").read_text())
        labels = [int(row["label"]) for row in rows]
        parts.append(_texts([row["sentence"] for row in rows], labels, max_words))
    return _data_set("jigsaw", ("civil", "toxic"), "jigsaw", *parts)


def _ag_news(max_words: int) -> DataSet:
    """Headlines and first sentences of news."""
    folder = SHARED / "data/ag_news"
    classes = tuple(_lines(folder / "classes.txt"))
    parts = []
    for part in ("train", "test"):
        rows = [line.split("\t") for line in _lines(folder / f"{part}.tsv")]
        labels = [classes.index(name) for _, name in rows]
        parts.append(_texts([_unescaped(text) for text, _ in rows], labels, max_words))
    return _data_set("ag_news", classes, "ag_news", *parts)


def _rotten_tomatoes(max_words: int) -> DataSet:
    """Single sentences of film reviews; the split is ours, for the data have none."""
    folder = SHARED / "data/rotten_tomatoes"
    classes = [_lines(folder / f"rt-polarity.{end}", "latin-1") for end in ("neg", "pos")]
    labels = [label for label, lines in enumerate(classes) for _ in lines]
    everything = _texts([line for lines in classes for line in lines], labels, max_words)
    mixed = everything.sample(len(everything), seed=0)
    n_held_out = _ROTTEN_HELD_OUT * len(classes)
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


def _texts(
    texts: list[str], labels: list[int] | None, max_words: int, reviews: list[str] | None = None
) -> Texts:
    """Cuts the texts, and groups those that are equal or of one review."""
    cut = [" ".join(text.split()[:max_words]) for text in texts]
    documents = groups(cut, reviews or cut)
    return Texts(
        texts=cut, labels=None if labels is None else np.array(labels), documents=documents
    )


def groups(texts: list[str], reviews: list[str]) -> Int[np.ndarray, " n"]:
    """The group of each text: linked by a review, by an equal text, or by a chain of both."""
    n = len(texts)
    text_of = np.unique(np.array([key(text) for text in texts]), return_inverse=True)[1]
    review_of = np.unique(np.array(reviews), return_inverse=True)[1]
    n_texts, n_reviews = text_of.max() + 1, review_of.max() + 1
    size = n_texts + n_reviews
    links = coo_array((np.ones(n), (text_of, n_texts + review_of)), shape=(size, size))
    return connected_components(links, directed=False)[1][text_of]


def key(text: str) -> str:
    """Equal for texts that differ in case and spaces only."""
    return " ".join(text.lower().split())


def _data_set(
    name: str, classes: tuple[str, ...], task: str, train: Texts, evaluation: Texts
) -> DataSet:
    """Takes the texts of the evaluation out of those to fit on."""
    held_out = {key(text) for text in evaluation.texts}
    kept = [i for i, text in enumerate(train.texts) if key(text) not in held_out]
    return DataSet(
        name=name,
        classes=classes,
        task=task,
        train=train.take(np.array(kept)),
        evaluation=evaluation,
    )
