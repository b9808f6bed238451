"""Word classes: coarse kinds of tokens that can be seen from their text, in any language."""

import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Int

from clvq_lens.host.vocabulary import Vocabulary

WORD_CLASSES = (
    "words", "capitalized", "word pieces", "numbers", "punctuation", "white space", "bytes",
)  # fmt: skip
_UNKNOWN = -1
_N_SAMPLED = 2_000  # tokens that show whether a vocabulary has spaces before words
_MARKS_WORDS = 0.1  # fraction of tokens with a space in front from which on spaces mark words


class WordClasses:
    """The word class of each token of a model, worked out when it is first asked for.

    Args:
        vocabulary: The model's vocabulary.
        d_vocab: Size of the vocabulary.
    """

    def __init__(self, vocabulary: Vocabulary, d_vocab: int) -> None:
        self._vocabulary = vocabulary
        self._classes = np.full(d_vocab, _UNKNOWN)
        # Spread over all ids: the first ones are often single bytes and special tokens.
        sample = np.linspace(0, d_vocab - 1, min(_N_SAMPLED, d_vocab)).astype(np.int64)
        names = vocabulary.names(torch.from_numpy(sample))
        n_spaced = sum(name.startswith(" ") for name in names)
        self._spaced = n_spaced > _MARKS_WORDS * len(names)

    def of(self, tokens: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """The class of each token, as its index in `WORD_CLASSES`."""
        new = np.unique(tokens)
        new = new[self._classes[new] == _UNKNOWN]
        for token, name in zip(new, self._vocabulary.names(torch.from_numpy(new)), strict=True):
            self._classes[token] = WORD_CLASSES.index(_class_of(name, self._spaced))
        return self._classes[tokens]


class StageWordClasses:
    """Counts of the word classes of the tokens in each node of a stage.

    Args:
        classes: Word classes of the model's tokens.
        sizes: Number of possible nodes of every stage of codes, by the stage's name.
    """

    def __init__(self, classes: WordClasses, sizes: Mapping[str, int]) -> None:
        self._classes = classes
        self._counts: dict[str, np.ndarray] = {}
        for stage, size in sizes.items():
            self._counts[stage] = np.zeros((size, len(WORD_CLASSES)), dtype=np.int64)

    def add(self, tokens: Int[np.ndarray, " n"], nodes: Sequence[Int[np.ndarray, " n"]]) -> None:
        """Counts some tokens, given their nodes at every stage."""
        classes = self._classes.of(tokens)
        for counts, here in zip(self._counts.values(), nodes, strict=True):
            # Not `counts[here, classes] += 1`, which counts a pair that repeats only once.
            np.add.at(counts, (here, classes), 1)

    def of(self, stage: str, nodes: Int[np.ndarray, " n"]) -> dict[int, str]:
        """The commonest class of the tokens in each node of a stage of codes."""
        return _by_node(nodes, self._counts[stage][nodes].argmax(1))

    def of_tokens(self, tokens: Int[np.ndarray, " n"]) -> dict[int, str]:
        """The class of each node of a stage of tokens."""
        return _by_node(tokens, self._classes.of(tokens))


def _by_node(nodes: Int[np.ndarray, " n"], classes: Int[np.ndarray, " n"]) -> dict[int, str]:
    """The name of the class of each node."""
    pairs = zip(nodes.tolist(), classes.tolist(), strict=True)
    return {node: WORD_CLASSES[number] for node, number in pairs}


def _class_of(name: str, spaced: bool) -> str:
    """The class of a token; words begin with a space if ``spaced``."""
    word = name.strip()
    if not word:
        return "white space"
    # Angle brackets are how `Vocabulary.names` shows a byte that is not a character by itself.
    if word.startswith("\u27e8") and word.endswith("\u27e9"):
        return "bytes"
    if word.startswith("##"):  # WordPiece marks what continues a word, not what begins one
        return "word pieces"
    # General categories of Unicode: letters of every script are "L", digits and the like "N".
    kinds = {unicodedata.category(character)[0] for character in word}
    if "L" not in kinds:
        return "numbers" if "N" in kinds else "punctuation"
    if word[0].isupper():
        return "capitalized"
    return "words" if name[0].isspace() or not spaced else "word pieces"
