"""Which tokens of a code are kept as its examples, in one pass and in bounded memory."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from clvq_lens.concepts.concept import Example
from clvq_lens.host.vocabulary import Vocabulary
from clvq_lens.training.tokens import TokenBatch

_SIDE = 8  # tokens shown on either side of an example
_LEFT = _SIDE + 4  # a few more on the left: a decoding may swallow the spaces it begins with
_ROWS_BEFORE_PRUNING = 4  # as many times what is kept in the end


@dataclass(frozen=True)
class _Rows:
    """Some tokens in context; one row each."""

    key: Float[np.ndarray, " n"]
    code: Int[np.ndarray, " n"]
    place: Int[np.ndarray, "n 2"]  # document, position
    window: Int[np.ndarray, "n width"]  # token ids, -1 beyond the text
    fit: Float[np.ndarray, "n 2"]  # distance, margin

    def __getitem__(self, rows: np.ndarray) -> "_Rows":
        parts = (self.key, self.code, self.place, self.window, self.fit)
        return _Rows(*(part[rows] for part in parts))


def _joined(parts: list[_Rows]) -> _Rows:
    names = ("key", "code", "place", "window", "fit")
    return _Rows(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


class ContextBatch:
    """Every real token of a batch, with its neighbours.

    Args:
        batch: The tokens.
        codes: Of each real token, in the order of ``batch.mask``.
        distance: Squared distance to its code vector, in units of the mean.
        margin: To the second nearest code, in the same unit.
    """

    def __init__(
        self,
        batch: TokenBatch,
        codes: Int[np.ndarray, " n"],
        distance: Float[np.ndarray, " n"],
        margin: Float[np.ndarray, " n"],
    ) -> None:
        self.codes, self.distance, self.margin = codes, distance, margin
        tokens = batch.tokens.masked_fill(~batch.attended, -1)
        padded = torch.nn.functional.pad(tokens, (_LEFT, _SIDE), value=-1)
        self._windows = padded.unfold(1, _LEFT + 1 + _SIDE, 1)
        rows, self._positions = batch.mask.nonzero(as_tuple=True)
        self._rows = rows
        self._documents = np.asarray(batch.documents, dtype=np.int64)[rows.numpy()]

    def rows(self, which: Int[np.ndarray, " m"], keys: Float[np.ndarray, " m"]) -> _Rows:
        """Some of the tokens."""
        chosen = torch.from_numpy(which)
        return _Rows(
            key=keys,
            code=self.codes[which],
            place=np.stack([self._documents[which], self._positions[chosen].numpy()], axis=1),
            window=self._windows[self._rows[chosen], self._positions[chosen]].numpy(),
            fit=np.stack([self.distance[which], self.margin[which]], axis=1),
        )


class Reservoir:
    """For each code, the tokens with the largest keys.

    Keys drawn at random make it a uniform sample, so that early tokens and frequent codes crowd
    out nobody.

    Args:
        n_codes: Size of the codebook.
        n_kept: Tokens of each code.
        distinct: Whether tokens with the same context on their left count once.
    """

    def __init__(self, n_codes: int, n_kept: int, *, distinct: bool) -> None:
        self._n_kept, self._distinct = n_kept, distinct
        self._threshold = np.full(n_codes, -np.inf)  # the smallest key of a code that has enough
        self._parts: list[_Rows] = []
        self._n_rows = 0
        self._most = _ROWS_BEFORE_PRUNING * n_kept * n_codes

    def offer(self, contexts: ContextBatch, keys: Float[np.ndarray, " n"]) -> None:
        """Takes the tokens whose keys are large enough."""
        if self._n_kept == 0:
            return
        which = np.flatnonzero(keys > self._threshold[contexts.codes])
        self._parts.append(contexts.rows(which, keys[which]))
        self._n_rows += len(which)
        if self._n_rows > self._most:
            self._prune()

    def examples(self, vocabulary: Vocabulary) -> dict[int, tuple[Example, ...]]:
        """The kept tokens of each code, those with the largest keys first."""
        if not self._parts:
            return {}
        kept = self._prune()
        found: dict[int, list[Example]] = {}
        for index, code in enumerate(kept.code.tolist()):
            place, fit = kept.place[index].tolist(), kept.fit[index].tolist()
            example = _example(vocabulary, kept.window[index], place, fit)
            found.setdefault(code, []).append(example)
        return {code: tuple(examples) for code, examples in found.items()}

    def _prune(self) -> _Rows:
        rows = _joined(self._parts)
        rows = rows[np.lexsort((-rows.key, rows.code))]
        if self._distinct:
            rows = rows[_first_of_each(rows.code, rows.window[:, : _LEFT + 1])]
        starts = np.searchsorted(rows.code, rows.code)
        rows = rows[np.arange(len(rows.code)) - starts < self._n_kept]
        n_kept = np.bincount(rows.code, minlength=len(self._threshold))
        smallest = np.full(len(self._threshold), np.inf)
        np.minimum.at(smallest, rows.code, rows.key)
        self._threshold = np.where(n_kept == self._n_kept, smallest, -np.inf)
        self._parts, self._n_rows = [rows], len(rows.code)
        return rows


def _first_of_each(
    code: Int[np.ndarray, " n"], context: Int[np.ndarray, "n width"]
) -> Int[np.ndarray, " m"]:
    """The first row of each pair of code and context, in order."""
    pairs = np.column_stack([code, context])
    return np.sort(np.unique(pairs, axis=0, return_index=True)[1])


def _example(
    vocabulary: Vocabulary, window: np.ndarray, place: list[int], fit: list[float]
) -> Example:
    beyond = window < 0
    n_left = int((~beyond[:_LEFT]).sum())
    tokens = torch.from_numpy(window[~beyond])
    strings = vocabulary.strings(tokens)
    token = vocabulary.displayed(tokens)[n_left]
    first, last = max(0, n_left - _SIDE), n_left
    if token and not strings[n_left]:  # a later part of a character, which is shown as the token
        last = max(index for index in range(n_left) if strings[index])
    return Example(
        document=place[0],
        position=place[1],
        before="".join(strings[first:last]),
        token=token,
        after="".join(strings[n_left + 1 :]),
        distance=fit[0],
        margin=fit[1],
    )
