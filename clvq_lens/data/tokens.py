"""Batches of tokens: documents of similar length side by side, padded on the right."""

import logging
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import get_args

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from clvq_lens.arguments import check_choice
from clvq_lens.config import LongTexts
from clvq_lens.data.document import Corpus, Document, Item, Part, Stored, document_of
from clvq_lens.data.documents import Data, TokenRows, open_documents
from clvq_lens.errors import ConfigError, EmptyCorpusError, TextTooLongError
from clvq_lens.host.host import Host

_WINDOW = 256  # documents read ahead and sorted by length
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TokenBatch:
    """Some sequences of tokens.

    Attributes:
        tokens: Padded on the right.
        attended: True where a sequence has a token, False on padding.
        mask: True on real tokens: neither padding nor special.
        documents: Number of the document of each sequence: the index of the document in the data
            as the user has them, or of its line in a file.
        parts: How much of its document each sequence is; None: all of them are whole.
        stored: Where the activations of each sequence are; None: the model has to be run.
    """

    tokens: Int[Tensor, "b pos"]
    attended: Bool[Tensor, "b pos"]
    mask: Bool[Tensor, "b pos"]
    documents: tuple[int, ...]
    parts: tuple[Part, ...] | None = None
    stored: tuple[Stored, ...] | None = None

    def on(self, device: torch.device) -> tuple[Int[Tensor, "b pos"], Bool[Tensor, "b pos"]]:
        """Tokens and ``attended`` on a device, as `Host.run` and `Host.activations` take them."""
        return self.tokens.to(device), self.attended.to(device)

    def take(self, rows: Int[Tensor, " r"]) -> "TokenBatch":
        """Some of the sequences, in this order, each as often as it is named."""
        numbers = rows.tolist()
        return TokenBatch(
            tokens=self.tokens[rows],
            attended=self.attended[rows],
            mask=self.mask[rows],
            documents=tuple(self.documents[row] for row in numbers),
            parts=self.parts and tuple(self.parts[row] for row in numbers),
            stored=self.stored and tuple(self.stored[row] for row in numbers),
        )

    def part(self, row: int) -> Part:
        """How much of its document a sequence is."""
        if self.parts is None:
            return Part(0, 0, 0, int(self.mask[row].sum()), is_whole=True)
        return self.parts[row]


@dataclass(frozen=True)
class TokenSequence:
    """A row of tokens that fits the context: a document, or a piece of one.

    Attributes:
        ids: Token ids.
        document: Number of the document.
        part: How much of the document it is.
        stored: Where its activations are, if they were read before.
    """

    ids: Int[Tensor, " n"]
    document: int
    part: Part
    stored: Stored | None = None


def token_batches(
    host: Host,
    documents: Iterable[Item],
    *,
    long_texts: LongTexts,
    splittable: bool = True,
    n_tokens: int | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[TokenBatch]:
    """Tokenizes documents and puts those of similar length side by side.

    The order is that of the data but for a window of 256 documents, which is sorted by length. A
    batch has about as many positions, padding included, as the model runs fast on. Padding in rows
    of tokens is taken off first.

    Args:
        host: The model, for its tokenizer, special tokens and context.
        documents: Documents; bare texts and rows are numbered as they come.
        long_texts: What to do with a text beyond the context.
        splittable: Whether pieces of a text are of use, so that errors may suggest to split it.
        n_tokens: Real tokens after which no further sequence is read; None: all are.
        generator: Decides the order of the batches of a window; None: the shortest come first. A
            caller that may stop before the end needs one, or it sees too many short documents.

    Raises:
        TextTooLongError: If a text is too long and ``long_texts`` is "error".
        DataError: If a token id is not in the model's vocabulary.
    """
    check_long_texts(long_texts, splittable=splittable)
    check_ids(host, documents)
    remedy = "Pass long_texts='split' or 'truncate', or cut the text."
    if not splittable:
        remedy = "Pass long_texts='truncate', or cut the text."
    batcher = ContextBatcher(host, long_texts, remedy)
    numbered = _numbered(documents)
    n_missing = math.inf if n_tokens is None else n_tokens
    try:
        while n_missing > 0 and (window := list(islice(numbered, _WINDOW))):
            sequences: list[TokenSequence] = []
            for document in batcher.tokenized(window):
                sequences += batcher.fit(document)
            sequences, n_missing = batcher.first(sequences, n_missing)
            groups = batcher.groups(sequences)
            for index in _order(len(groups), generator):
                yield batcher.batch(groups[index])
    finally:  # also when nobody wants the rest
        batcher.warn_of_cuts()


def one_batch(host: Host, data: Data) -> TokenBatch:
    """A few texts or token rows as one batch, in the order given.

    Padding in rows of tokens is taken off, so positions count from the first token of a text.

    Args:
        host: The model.
        data: Texts or rows of tokens, none of them empty.

    Raises:
        TextTooLongError: If a text is longer than the model's context.
        EmptyCorpusError: If a text is empty.
        DataError: If a token id is not in the model's vocabulary.
    """
    documents = open_documents(data)
    check_ids(host, documents)
    batcher = ContextBatcher(host, "error", "Cut it: each text is read in one pass here.")
    sequences: list[TokenSequence] = []
    for document in batcher.tokenized(list(documents)):
        # Empty documents were left out on the way, so one shows as a missing number.
        if document.number != len(sequences):
            raise EmptyCorpusError(
                f"{document.corpus.name_of(len(sequences))} is empty. Leave it out, so that rows "
                f"of the result are those of the data."
            )
        sequences += batcher.fit(document)
    return batcher.batch(sequences)


def check_long_texts(long_texts: str, *, splittable: bool = True) -> None:
    """Raises `ConfigError` for an unknown way to treat long texts, or one of no use here."""
    check_choice("long_texts", long_texts, get_args(LongTexts))
    if long_texts == "split" and not splittable:
        raise ConfigError(
            "long_texts is 'split', but here a text counts as a whole. Pass 'truncate' or 'error'."
        )


def check_ids(host: Host, documents: Iterable[Item]) -> None:
    """Raises `DataError` for ids outside the vocabulary, if all documents are in memory."""
    # Before any work: other documents are checked as they are read, which may be hours later.
    if isinstance(documents, TokenRows):
        host.vocabulary.check_ids(documents.ids, "The data")


def require_real(n_tokens: int | Tensor) -> None:
    """Raises `EmptyCorpusError` if some data have no real token."""
    if int(n_tokens) == 0:
        raise EmptyCorpusError(
            "The data hold no real token: only special tokens such as BOS, or padding. Pass texts "
            "with words in them."
        )


def _numbered(documents: Iterable[Item]) -> Iterator[Document]:
    corpus = Corpus()
    for number, item in enumerate(documents):
        yield document_of(item, number, corpus)


class ContextBatcher:
    """Cuts documents to the model's context, and puts the sequences into batches.

    Args:
        host: The model.
        long_texts: What to do with a text beyond the context.
        remedy: What an error suggests.
    """

    def __init__(self, host: Host, long_texts: LongTexts, remedy: str) -> None:
        self._host = host
        self._vocabulary, self._size = host.vocabulary, host.n_context
        self._special, self._padding = self._vocabulary.special, self._vocabulary.padding
        self._padding_rule = self._vocabulary.padding_rule
        self._causal, self._long_texts, self._remedy = host.causal, long_texts, remedy
        self._n_read, self._n_cut = 0, 0
        self._corpus: Corpus | None = None

    def sequences(
        self, documents: Iterable[Document]
    ) -> Iterator[tuple[Document, list[TokenSequence]]]:
        """Documents in their order, each with its sequences."""
        documents = iter(documents)
        while window := list(islice(documents, _WINDOW)):
            for document, tokenized in zip(window, self.tokenized(window), strict=True):
                yield document, self.fit(tokenized)

    def tokenized(self, documents: list[Document]) -> Iterator[Document]:
        """Documents as rows of tokens without padding."""
        # All texts in one call, which a tokenizer works on in parallel.
        texts = [document.content for document in documents if isinstance(document.content, str)]
        rows = iter(self._vocabulary.tokenize(texts) if texts else [])
        for document in documents:
            if document.stored is not None:
                yield document
                continue
            start, ids = document.start, document.content
            if isinstance(ids, str):
                ids = next(rows)
            elif document.is_padded:
                begin, end = self._padding_rule.text_in(ids)
                start, ids = start + begin, ids[begin:end]
            self._vocabulary.check_ids(ids, document.name)
            yield Document(ids, document.number, start, is_padded=False, corpus=document.corpus)

    def fit(self, document: Document) -> list[TokenSequence]:
        """A document, or the pieces of a long one.

        Raises:
            TextTooLongError: If it is too long and long texts are an error.
        """
        if document.stored is not None:
            return self._fit_stored(document.stored, document.number)
        ids = document.content
        assert isinstance(ids, Tensor)
        self._n_read += 1
        if len(ids) <= self._size:
            n_real = len(ids) - int(torch.isin(ids, self._special).sum())
            part = Part(0, document.start, 0, n_real, is_whole=True)
            return [TokenSequence(ids, document.number, part)]
        if self._long_texts == "error":
            raise TextTooLongError(
                f"{document.name} has {len(ids)} tokens, but the model's context is {self._size}. "
                f"{self._remedy}"
            )
        self._n_cut, self._corpus = self._n_cut + 1, document.corpus
        return self._pieces(ids, document)

    def _fit_stored(self, stored: Stored, number: int) -> list[TokenSequence]:
        """A document that fitted when its activations were stored."""
        stored.check(self._host)
        sequences: list[TokenSequence] = []
        for ids, part in stored.pieces():
            sequences.append(TokenSequence(ids, number, part, stored))
        return sequences

    def _pieces(self, ids: Tensor, document: Document) -> list[TokenSequence]:
        """The pieces of a long text, each beginning with BOS, or CLS, if the text does.

        In an encoder each piece also ends with SEP if the text does.
        """
        is_special = torch.isin(ids, self._special)
        first = int(is_special[0])
        # In a causal model no token sees the last one, so only the pieces of an encoder need it.
        last = len(ids) - int(is_special[-1] and not self._causal)
        size = self._size - first - (len(ids) - last)
        if size < 1:  # the context has room for the special tokens alone
            first, last, size = 0, len(ids), self._size
        if self._long_texts == "truncate":
            n_last = len(ids) - last
            ids = torch.cat([ids[: first + size], ids[last:]])
            is_special = torch.cat([is_special[: first + size], is_special[last:]])
            last = len(ids) - n_last
        n_real, n_before = int((~is_special).sum()), 0
        pieces: list[TokenSequence] = []
        for begin in range(first, last, size):
            end = min(begin + size, last)
            # Minus first, so that positions of its own tokens are those in the whole text.
            start = document.start + begin - first
            part = Part(len(pieces), start, n_before, n_real, is_whole=False)
            piece = torch.cat([ids[:first], ids[begin:end], ids[last:]])
            pieces.append(TokenSequence(piece, document.number, part))
            n_before += int((~is_special[begin:end]).sum())
        return pieces

    def first(
        self, sequences: list[TokenSequence], n_tokens: float | int
    ) -> tuple[list[TokenSequence], float | int]:
        """The first sequences that hold so many real tokens, and how many tokens they lack."""
        if math.isinf(n_tokens):
            return sequences, n_tokens
        for index, sequence in enumerate(sequences):
            n_tokens -= int((~torch.isin(sequence.ids, self._special)).sum())
            if n_tokens <= 0:
                return sequences[: index + 1], 0
        return sequences, n_tokens

    def groups(self, sequences: list[TokenSequence]) -> list[list[TokenSequence]]:
        """Sequences of similar length together, as many as the model runs fast on."""
        # A stable sort: texts of equal length, and the pieces of one text, keep their order.
        by_length = sorted(sequences, key=lambda sequence: len(sequence.ids))
        return list(_groups(by_length, self._host.positions_per_pass))

    def batch(self, group: list[TokenSequence]) -> TokenBatch:
        """Some sequences side by side, padded on the right."""
        lengths = torch.tensor([len(sequence.ids) for sequence in group]).unsqueeze(1)
        width = max(1, int(lengths.max()))
        tokens = torch.full((len(group), width), self._padding)
        for row, sequence in enumerate(group):
            tokens[row, : len(sequence.ids)] = sequence.ids
        positions = torch.arange(width)
        # A text without a token attends to one of padding: a row that sees nothing would be NaN.
        attended = positions < lengths.clamp_min(1)
        mask = (positions < lengths) & ~torch.isin(tokens, self._special)
        documents = tuple(sequence.document for sequence in group)
        parts = tuple(sequence.part for sequence in group)
        stored = tuple(sequence.stored for sequence in group if sequence.stored is not None)
        all_are_stored = len(stored) == len(group)
        return TokenBatch(
            tokens, attended, mask, documents, parts, stored if all_are_stored else None
        )

    def warn_of_cuts(self) -> None:
        """Says how many texts were too long, once however often the same data are read."""
        if self._corpus is None or self._corpus.warned_of_long_texts:
            return
        self._corpus.warned_of_long_texts = True
        what_was_done = "split into pieces, each read by itself"
        if self._long_texts == "truncate":
            what_was_done = "cut off there"
        _log.warning(
            "Longer than the model's context of %d tokens: %d of %d texts. They were %s "
            "(long_texts=%r).",
            self._size,
            self._n_cut,
            self._n_read,
            what_was_done,
            self._long_texts,
        )


def _order(n: int, generator: torch.Generator | None) -> list[int]:
    if generator is None:
        return list(range(n))
    return torch.randperm(n, generator=generator, device=generator.device).tolist()


def _groups(sequences: list[TokenSequence], n_positions: int) -> Iterator[list[TokenSequence]]:
    """Neighbors that together take no more positions, padding included; or one that takes more."""
    group: list[TokenSequence] = []
    for sequence in sequences:  # sorted: the last one of a group is its longest
        if group and (len(group) + 1) * len(sequence.ids) > n_positions:
            yield group
            group = []
        group.append(sequence)
    if group:
        yield group
