"""Word classes: coarse kinds of tokens that can be seen from their text, in any language."""

import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Int

from clvq_lens.host.vocabulary import Vocabulary

CLASSES = (
    "words", "capitalised", "word pieces", "numbers", "punctuation", "white space", "bytes",
)  # fmt: skip
_UNKNOWN = -1
_N_SAMPLED = 2_000  # tokens by which one sees whether a vocabulary has spaces before words
_MARKS_WORDS = 0.1  # of the vocabulary begins with a space, where spaces belong to tokens


class WordClasses:
    """The class of each token of a model, found when it is asked for.

    Args:
        vocabulary: Of the model.
        d_vocab: Its size.
    """

    def __init__(self, vocabulary: Vocabulary, d_vocab: int) -> None:
        self._vocabulary = vocabulary
        self._classes = np.full(d_vocab, _UNKNOWN)
        sample = np.linspace(0, d_vocab - 1, min(_N_SAMPLED, d_vocab)).astype(np.int64)
        names = vocabulary.names(torch.from_numpy(sample))
        n_spaced = sum(name.startswith(" ") for name in names)
        self._spaced = n_spaced > _MARKS_WORDS * len(names)

    def of(self, tokens: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """The class of each token, as its place in `CLASSES`."""
        new = np.unique(tokens)
        new = new[self._classes[new] == _UNKNOWN]
        for token, name in zip(new, self._vocabulary.names(torch.from_numpy(new)), strict=True):
            self._classes[token] = CLASSES.index(_class_of(name, self._spaced))
        return self._classes[tokens]


class StageClasses:
    """Counts of the classes of the tokens that are in each node of a stage.

    Args:
        classes: Of the model's tokens.
        sizes: Nodes of every stage, by its name.
    """

    def __init__(self, classes: WordClasses, sizes: Mapping[str, int]) -> None:
        self._classes = classes
        self._counts = {
            name: np.zeros((size, len(CLASSES)), dtype=np.int64) for name, size in sizes.items()
        }

    def add(self, tokens: Int[np.ndarray, " n"], nodes: Sequence[Int[np.ndarray, " n"]]) -> None:
        """Counts some tokens, and their nodes at every stage."""
        classes = self._classes.of(tokens)
        for counts, here in zip(self._counts.values(), nodes, strict=True):
            np.add.at(counts, (here, classes), 1)

    def of(self, stage: str, nodes: Int[np.ndarray, " n"]) -> dict[int, str]:
        """The commonest class of the tokens in each node of a stage of codes."""
        commonest = self._counts[stage][nodes].argmax(1)
        return {
            node: CLASSES[c] for node, c in zip(nodes.tolist(), commonest.tolist(), strict=True)
        }

    def of_tokens(self, tokens: Int[np.ndarray, " n"]) -> dict[int, str]:
        """The class of each node of a stage of tokens."""
        classes = self._classes.of(tokens)
        return {
            token: CLASSES[c] for token, c in zip(tokens.tolist(), classes.tolist(), strict=True)
        }


def _named(nodes: Int[np.ndarray, " n"], classes: Int[np.ndarray, " n"]) -> dict[int, str]:
    """The name of the class of each node."""
    pairs = zip(nodes.tolist(), classes.tolist(), strict=True)
    return {node: CLASSES[number] for node, number in pairs}


def _class_of(name: str, spaced: bool) -> str:
    """The class of a token; words begin with a space if ``spaced``."""
    word = name.strip()
    if not word:
        return "white space"
    if word.startswith("\u27e8") and word.endswith("\u27e9"):
        return "bytes"
    if word.startswith("##"):
        return "word pieces"
    kinds = {unicodedata.category(character)[0] for character in word}
    if "L" not in kinds:
        return "numbers" if "N" in kinds else "punctuation"
    if word[0].isupper():
        return "capitalised"
    return "words" if name[0].isspace() or not spaced else "word pieces"
