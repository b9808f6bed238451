"""The concept table: what each code means, from one pass over any amount of text."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from clvq_lens.concepts.encoding import batch_codes
from clvq_lens.config import LongTexts
from clvq_lens.errors import EmptyCorpusError, ShapeError
from clvq_lens.host.protocol import Host
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from clvq_lens.training.documents import Data, open_documents
from clvq_lens.training.tokens import TokenBatch, token_batches

_CONTEXT = 8  # tokens shown on either side of an example
_TOP_TOKENS = 10


@dataclass(frozen=True)
class Example:
    """A token in its context.

    Attributes:
        document: Running number of its document.
        position: Of the token in its sequence.
        before: Text on its left.
        token: Its own text.
        after: Text on its right.
    """

    document: int
    position: int
    before: str
    token: str
    after: str

    def __str__(self) -> str:
        return f"{self.before}[{self.token}]{self.after}"


@dataclass(frozen=True)
class Concept:
    """What one code means.

    Attributes:
        code: Its number.
        usage: Tokens in it.
        share: Fraction of all tokens.
        tokens: Its commonest tokens, with their counts.
        examples: Tokens drawn at random from all of its tokens, in context.
    """

    code: int
    usage: int
    share: float
    tokens: tuple[tuple[str, int], ...]
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class ConceptTable:
    """The concepts of a codebook in some data; ``table[17]`` is code 17.

    Attributes:
        concepts: One for every code, unused ones included.
        n_tokens: Real tokens read.
    """

    concepts: tuple[Concept, ...]
    n_tokens: int

    def __getitem__(self, code: int) -> Concept:
        if not 0 <= code < len(self.concepts):
            raise ShapeError(f"There is no code {code}; codes go from 0 to {len(self) - 1}.")
        return self.concepts[code]

    def __len__(self) -> int:
        return len(self.concepts)

    def __iter__(self) -> Iterator[Concept]:
        return iter(self.concepts)

    def frame(self) -> pd.DataFrame:
        """One row for each code, the most used first."""
        frame = pd.DataFrame(
            {
                "code": [concept.code for concept in self],
                "usage": [concept.usage for concept in self],
                "share": [concept.share for concept in self],
                "tokens": [" ".join(token for token, _ in concept.tokens) for concept in self],
                "example": [str(next(iter(concept.examples), "")) for concept in self],
            }
        )
        return frame.sort_values("usage", ascending=False, kind="stable").reset_index(drop=True)

    def labels(self, n_tokens: int = 3) -> dict[int, str]:
        """A short name for every code: its commonest tokens."""
        return {c.code: " ".join(token for token, _ in c.tokens[:n_tokens]) for c in self}

    def _repr_html_(self) -> str:
        return self.frame().to_html(index=False, escape=True)


def concept_table(
    host: Host,
    quantizer: CrossLayerQuantizer,
    source: str,
    data: Data,
    *,
    n_examples: int = 20,
    long_texts: LongTexts = "error",
    seed: int = 0,
    progress: bool = True,
) -> ConceptTable:
    """What each code means; see `clvq_lens.Lens.concepts`.

    Raises:
        EmptyCorpusError: If the data hold no real token.
    """
    quantizer.eval()
    counts = _TokenCounts(quantizer.config.n_codes)
    examples = _Examples(host, quantizer.config.n_codes, n_examples, seed)
    batches = token_batches(host, open_documents(data), long_texts=long_texts)
    for batch in tqdm(batches, desc="concepts", unit="batch", disable=not progress):
        codes = batch_codes(host, quantizer, source, batch).cpu()
        counts.add(codes[batch.mask], batch.tokens[batch.mask])
        examples.add(codes, batch)
    n_tokens = int(counts.usage.sum())
    if n_tokens == 0:
        raise EmptyCorpusError("The data hold no real token. Pass texts with words in them.")
    concepts = (
        Concept(
            code=code,
            usage=int(counts.usage[code]),
            share=int(counts.usage[code]) / n_tokens,
            tokens=counts.top(code, host),
            examples=examples.of(code),
        )
        for code in range(quantizer.config.n_codes)
    )
    return ConceptTable(tuple(concepts), n_tokens)


class _TokenCounts:
    """How often each token occurs in each code."""

    def __init__(self, n_codes: int) -> None:
        self.usage = torch.zeros(n_codes, dtype=torch.long)
        self._counts: list[Counter[int]] = [Counter() for _ in range(n_codes)]

    def add(self, codes: Tensor, tokens: Tensor) -> None:
        self.usage += torch.bincount(codes, minlength=len(self.usage))
        pairs, counts = torch.stack([codes, tokens]).unique(dim=1, return_counts=True)
        for code, token, count in zip(*pairs.tolist(), counts.tolist(), strict=True):
            self._counts[code][token] += count

    def top(self, code: int, host: Host) -> tuple[tuple[str, int], ...]:
        commonest = self._counts[code].most_common(_TOP_TOKENS)
        if not commonest:
            return ()
        ids = torch.tensor([token for token, _ in commonest])
        counts = (count for _, count in commonest)
        return tuple(zip(host.names(ids), counts, strict=True))


class _Examples:
    """A uniform sample of each code's tokens, so that frequent or early ones crowd out nobody.

    Every token gets a random key, and each code keeps those with the largest keys.
    """

    def __init__(self, host: Host, n_codes: int, n_examples: int, seed: int) -> None:
        self._host, self._n_examples = host, n_examples
        self._random = np.random.default_rng(seed)
        self._kept: list[list[tuple[float, Example]]] = [[] for _ in range(n_codes)]
        self._threshold = np.zeros(n_codes)  # the smallest key of a code that has enough

    def add(self, codes: Tensor, batch: TokenBatch) -> None:
        keys = self._random.random(codes.shape)
        wanted = batch.mask.numpy() & (keys > self._threshold[codes.numpy()])
        for row in np.flatnonzero(wanted.any(axis=1)).tolist():
            strings = self._host.strings(batch.tokens[row][batch.attended[row]])
            for position in np.flatnonzero(wanted[row]).tolist():
                code, key = int(codes[row, position]), float(keys[row, position])
                self._offer(code, key, _example(batch.documents[row], strings, position))

    def _offer(self, code: int, key: float, example: Example) -> None:
        kept = self._kept[code]
        kept.append((key, example))
        if len(kept) > 2 * self._n_examples:
            self._shrink(code)

    def _shrink(self, code: int) -> None:
        kept = self._kept[code]
        kept.sort(key=lambda pair: -pair[0])
        del kept[self._n_examples :]
        if len(kept) == self._n_examples:
            self._threshold[code] = kept[-1][0] if kept else 1.0

    def of(self, code: int) -> tuple[Example, ...]:
        self._shrink(code)
        return tuple(example for _, example in self._kept[code])


def _example(document: int, strings: list[str], position: int) -> Example:
    start, end = max(0, position - _CONTEXT), position + 1 + _CONTEXT
    before, after = "".join(strings[start:position]), "".join(strings[position + 1 : end])
    return Example(document, position, before, strings[position], after)
