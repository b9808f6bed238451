"""Batches of tokens: documents of similar length side by side, padded on the right."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from clvq_lens.config import LongTexts
from clvq_lens.errors import TextTooLongError
from clvq_lens.host.host import Host
from clvq_lens.training.documents import Data, Document, open_documents

_WINDOW = 256  # documents read ahead and sorted by length


@dataclass(frozen=True)
class TokenBatch:
    """Some sequences of tokens.

    Attributes:
        tokens: Padded on the right.
        attended: True where a sequence has a token, False on padding.
        mask: True on real tokens: neither padding nor special.
        documents: Running number of the document of each sequence.
    """

    tokens: Int[Tensor, "b pos"]
    attended: Bool[Tensor, "b pos"]
    mask: Bool[Tensor, "b pos"]
    documents: tuple[int, ...]


def token_batches(
    host: Host,
    documents: Iterable[Document],
    *,
    long_texts: LongTexts,
    generator: torch.Generator | None = None,
) -> Iterator[TokenBatch]:
    """Tokenizes documents and puts those of similar length side by side.

    The order is that of the data but for a window of 256 documents, which is sorted by length. A
    batch has about as many positions, padding included, as the model runs fast on.

    Args:
        host: The model, for its tokenizer, special tokens and context.
        documents: Texts or token rows.
        long_texts: What to do with a text beyond the context.
        generator: Decides the order of the batches of a window; None: the shortest come first.
            Whoever may stop before the end needs one, or sees too many short documents.

    Raises:
        TextTooLongError: If a text is too long and ``long_texts`` is "error".
    """
    special = host.vocabulary.special
    numbered = enumerate(documents)
    while window := list(islice(numbered, _WINDOW)):
        sequences = [
            (number, piece)
            for (number, _), ids in zip(
                window, _token_ids(host, [d for _, d in window]), strict=True
            )
            for piece in _fit_context(ids, host.n_context, long_texts, number, special)
        ]
        sequences.sort(key=lambda sequence: len(sequence[1]))
        groups = list(_groups(sequences, host.positions_per_pass))
        for number in _order(len(groups), generator):
            yield _batch(groups[number], host.vocabulary.padding, special)


def one_batch(host: Host, data: Data) -> TokenBatch:
    """A few texts or token rows as one batch, in the order given.

    Raises:
        TextTooLongError: If one is longer than the model's context.
    """
    special = host.vocabulary.special
    rows = enumerate(_token_ids(host, list(open_documents(data))))
    sequences = [
        (number, piece)
        for number, ids in rows
        for piece in _fit_context(ids, host.n_context, "error", number, special)
    ]
    return _batch(sequences, host.vocabulary.padding, special)


def _token_ids(host: Host, documents: list[Document]) -> list[Int[Tensor, " _"]]:
    texts = [document for document in documents if isinstance(document, str)]
    tokenized = iter(host.vocabulary.tokenize(texts) if texts else [])
    return [next(tokenized) if isinstance(doc, str) else doc for doc in documents]


def _fit_context(
    ids: Tensor, n_context: int, long_texts: LongTexts, number: int, special: Tensor
) -> list[Tensor]:
    if len(ids) <= n_context:
        return [ids]
    if long_texts == "truncate":
        return [ids[:n_context]]
    if long_texts == "split":  # every piece begins as the text did, with BOS or without
        start = ids[:1] if torch.isin(ids[0], special) else ids[:0]
        pieces = ids[len(start) :].split(n_context - len(start))
        return [torch.cat([start, piece]) for piece in pieces]
    raise TextTooLongError(
        f"Document {number} has {len(ids)} tokens, but the model's context is {n_context}. "
        f"Pass long_texts='split' or 'truncate', or cut the text."
    )


def _groups(
    sequences: list[tuple[int, Tensor]], n_positions: int
) -> Iterator[list[tuple[int, Tensor]]]:
    group: list[tuple[int, Tensor]] = []
    for number, ids in sequences:  # sorted: the last one of a group is its longest
        if group and (len(group) + 1) * len(ids) > n_positions:
            yield group
            group = []
        group.append((number, ids))
    if group:
        yield group


def _order(n: int, generator: torch.Generator | None) -> list[int]:
    if generator is None:
        return list(range(n))
    return torch.randperm(n, generator=generator, device=generator.device).tolist()


def _batch(group: list[tuple[int, Tensor]], padding: int, special: Tensor) -> TokenBatch:
    tokens = pad_sequence([ids for _, ids in group], batch_first=True, padding_value=padding)
    lengths = torch.tensor([len(ids) for _, ids in group])
    attended = torch.arange(tokens.shape[1]) < lengths.unsqueeze(1)
    mask = attended & ~torch.isin(tokens, special)
    return TokenBatch(tokens, attended, mask, tuple(number for number, _ in group))
