"""Which tokens of a code are kept as its examples, in one pass and in bounded memory."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from clvq_lens.concepts.concept import Example
from clvq_lens.data.tokens import TokenBatch
from clvq_lens.host.vocabulary import Vocabulary

_SIDE = 8  # tokens shown on either side of an example
_LEFT = _SIDE + 4  # a few more on the left: a decoding may swallow the spaces it begins with
_BEYOND = -1  # in place of a token id, where the text has ended
_ROWS_BEFORE_PRUNING = 4  # times as many rows as stay in the end


@dataclass(frozen=True)
class _Rows:
    """Some tokens in context; one row each."""

    key: Float[np.ndarray, " n"]
    code: Int[np.ndarray, " n"]
    document: Int[np.ndarray, " n"]
    position: Int[np.ndarray, " n"]
    window: Int[np.ndarray, "n width"]  # ids of the token and of its neighbors
    distance: Float[np.ndarray, " n"]
    margin: Float[np.ndarray, " n"]

    def __getitem__(self, rows: np.ndarray) -> "_Rows":
        return _Rows(
            key=self.key[rows],
            code=self.code[rows],
            document=self.document[rows],
            position=self.position[rows],
            window=self.window[rows],
            distance=self.distance[rows],
            margin=self.margin[rows],
        )


def _joined(groups: list[_Rows]) -> _Rows:
    columns: dict[str, np.ndarray] = {}
    for column in fields(_Rows):
        columns[column.name] = np.concatenate([getattr(rows, column.name) for rows in groups])
    return _Rows(**columns)


class ContextBatch:
    """Every real token of a batch, with its neighbors.

    Args:
        batch: The tokens.
        codes: The code of each real token, in the order of ``batch.mask``.
        distance: Squared distance to its code vector, in units of the mean.
        margin: How much farther the second nearest code is, in the same unit.
    """

    def __init__(
        self,
        batch: TokenBatch,
        codes: Int[np.ndarray, " n"],
        distance: Float[np.ndarray, " n"],
        margin: Float[np.ndarray, " n"],
    ) -> None:
        self.codes, self.distance, self.margin = codes, distance, margin
        # Windows reach over special tokens, which are part of the text, but not over padding.
        tokens = batch.tokens.masked_fill(~batch.attended, _BEYOND)
        padded = torch.nn.functional.pad(tokens, (_LEFT, _SIDE), value=_BEYOND)
        # A view of shape [row, position, width]: windows of a whole batch take no memory.
        self._windows = padded.unfold(1, _LEFT + 1 + _SIDE, 1)
        self._rows, self._positions = batch.mask.nonzero(as_tuple=True)
        documents = np.asarray(batch.documents, dtype=np.int64)
        self._documents = documents[self._rows.numpy()]

    def rows(self, which: Int[np.ndarray, " m"], keys: Float[np.ndarray, " m"]) -> _Rows:
        """Some of the tokens.

        Args:
            which: Their numbers among the real tokens of the batch.
            keys: The key of each.
        """
        chosen = torch.from_numpy(which)
        positions = self._positions[chosen]
        return _Rows(
            key=keys,
            code=self.codes[which],
            document=self._documents[which],
            position=positions.numpy(),
            window=self._windows[self._rows[chosen], positions].numpy(),
            distance=self.distance[which],
            margin=self.margin[which],
        )


class TopContexts:
    """For each code, the tokens with the largest keys.

    With random keys it is a uniform sample of the tokens of each code, late ones as likely as early
    ones. Every code has places of its own, so a frequent code takes none from a rare one.

    Args:
        n_codes: Size of the codebook.
        n_kept: Number of tokens to keep for each code.
        distinct: Whether tokens with the same context on their left count once.
    """

    def __init__(self, n_codes: int, n_kept: int, *, distinct: bool) -> None:
        self._n_kept, self._distinct = n_kept, distinct
        # The smallest key of a code that has enough tokens: later ones have to beat it.
        self._threshold = np.full(n_codes, -np.inf)
        self._groups: list[_Rows] = []
        self._n_rows = 0
        self._most_rows = _ROWS_BEFORE_PRUNING * n_kept * n_codes

    def offer(self, contexts: ContextBatch, keys: Float[np.ndarray, " n"]) -> None:
        """Takes the tokens whose keys are large enough."""
        if self._n_kept == 0:
            return
        which = np.flatnonzero(keys > self._threshold[contexts.codes])
        self._groups.append(contexts.rows(which, keys[which]))
        self._n_rows += len(which)
        # Pruning sorts, so it waits until there is much to throw away.
        if self._n_rows > self._most_rows:
            self._prune()

    def examples(self, vocabulary: Vocabulary) -> dict[int, tuple[Example, ...]]:
        """The tokens of each code that has any, those with the largest keys first."""
        if not self._groups:
            return {}
        rows = self._prune()
        by_code: dict[int, list[Example]] = {}
        for index, code in enumerate(rows.code.tolist()):
            by_code.setdefault(code, []).append(_example(vocabulary, rows, index))
        return {code: tuple(examples) for code, examples in by_code.items()}

    def state(self) -> dict[str, Tensor]:
        """The tokens that it holds, for `restore_`."""
        state: dict[str, Tensor] = {}
        if self._groups:
            rows = _joined(self._groups)
            for column in fields(_Rows):
                state[column.name] = torch.from_numpy(getattr(rows, column.name))
        return state

    def restore_(self, state: Mapping[str, Tensor]) -> None:
        """Goes on with the tokens of another one."""
        # Thresholds only spare the next pruning some rows, and come from it.
        self._threshold.fill(-np.inf)
        self._groups, self._n_rows = [], 0
        if state:
            columns: dict[str, np.ndarray] = {}
            for column in fields(_Rows):
                columns[column.name] = state[column.name].numpy()
            self._groups.append(_Rows(**columns))
            self._n_rows = len(columns["key"])

    def _prune(self) -> _Rows:
        """Drops the rows that cannot be among the examples any more; gives those that stay."""
        rows = _joined(self._groups)
        # By code and falling key. The sort is stable, so of equal keys the earliest tokens stay.
        rows = rows[np.lexsort((-rows.key, rows.code))]
        if self._distinct:
            rows = rows[_first_of_each(rows.code, rows.window[:, : _LEFT + 1])]
        first_of_code = np.searchsorted(rows.code, rows.code)
        rank = np.arange(len(rows.code)) - first_of_code
        rows = rows[rank < self._n_kept]
        n_held = np.bincount(rows.code, minlength=len(self._threshold))
        smallest = np.full(len(self._threshold), np.inf)
        np.minimum.at(smallest, rows.code, rows.key)
        # A code with room left takes every token, however small its key.
        self._threshold = np.where(n_held == self._n_kept, smallest, -np.inf)
        self._groups, self._n_rows = [rows], len(rows.code)
        return rows


def _first_of_each(
    code: Int[np.ndarray, " n"], context: Int[np.ndarray, "n width"]
) -> Int[np.ndarray, " m"]:
    """The first row of each pair of code and context, in order."""
    pairs = np.column_stack([code, context])
    _, first = np.unique(pairs, axis=0, return_index=True)
    return np.sort(first)  # np.unique gives them in the order of the pairs


def _example(vocabulary: Vocabulary, rows: _Rows, index: int) -> Example:
    """A row as text."""
    window = rows.window[index]
    in_text = window != _BEYOND
    n_left = int(in_text[:_LEFT].sum())
    # The window is decoded as a whole: one token by itself may lose its space, or be half a letter.
    tokens = torch.from_numpy(window[in_text])
    strings, displayed = vocabulary.strings_and_displayed(tokens)
    token = displayed[n_left]
    end_of_left = n_left
    if token and not strings[n_left]:
        # The token is a later part of a character. It shows all of it, as the first part would,
        # so the text on the left ends before that first part.
        end_of_left = max(place for place in range(n_left) if strings[place])
    return Example(
        document=int(rows.document[index]),
        position=int(rows.position[index]),
        before="".join(strings[max(0, n_left - _SIDE) : end_of_left]),
        token=token,
        after="".join(strings[n_left + 1 :]),
        distance=float(rows.distance[index]),
        margin=float(rows.margin[index]),
    )
