"""Sentences whose words have known labels: a treebank of English on the web, in CoNLL-U."""

from collections.abc import Iterator
from typing import Any

import clvq_lens as cl
from benchmarks.paper import data

_N_SENTENCES = 600
_EVERY = 3  # each third sentence, so that they come from all kinds of text

Labeled = tuple[list[str], list[list[str]]]
"""Texts, and the label of every token of each."""
Words = list[tuple[int, int, list[str]]]
"""Where each word of a sentence starts and ends, and its columns in CoNLL-U."""


def of_words(model: Any) -> dict[str, Labeled]:
    """Sentences of the web with the part of speech and the relation of every token."""
    path = data.SHARED / "data/ud_ewt/en_ewt-ud-dev.conllu"
    chosen = list(sentences(path.read_text(encoding="utf-8")))[::_EVERY][:_N_SENTENCES]
    labeled: dict[str, Labeled] = {}
    for kind, column in (("UPOS", 3), ("deprel", 7)):
        texts, spans = [], []
        for text, words in chosen:
            texts.append(text)
            spans.append(_spans(words, column))
        labeled[kind] = (texts, cl.token_labels(model, texts, spans))
    return labeled


def _spans(words: Words, column: int) -> list[tuple[int, int, str]]:
    """The words of a sentence with the label in a column."""
    spans = []
    for start, end, columns in words:
        spans.append((start, end, columns[column].split(":")[0]))  # "nsubj:pass" is a subject
    return spans


def sentences(conllu: str) -> Iterator[tuple[str, Words]]:
    """Each sentence with its words."""
    for block in conllu.split("\n\n"):
        text = _text_of(block)
        if text is None:
            continue
        words: Words = []
        end = 0
        for line in block.splitlines():
            columns = line.split("\t")
            if not columns[0].isdecimal():  # a comment, or "1-2": words that are written as one
                continue
            # Found one after the other: a word may stand in a sentence twice.
            start = text.find(columns[1], end)
            if start >= 0:
                end = start + len(columns[1])
                words.append((start, end, columns))
        yield text, words


def _text_of(block: str) -> str | None:
    """The sentence as it is written; None where the comments do not tell it."""
    for line in block.splitlines():
        if line.startswith("# text = "):
            return line.removeprefix("# text = ")
    return None
