"""One step of a concept flow: how the tokens of one stage go on to the next."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Int

from clvq_lens.stats.agreement import shuffled_rows
from clvq_lens.stats.metrics import entropy
from clvq_lens.stats.tally import Tally

StageKind = Literal["token", "codes", "prediction"]
_MAJORITY = 0.5  # fraction of tokens that a majority is above
_PART = 0.1  # least fraction of a code's tokens in each part it splits into or merges from
_MOST_DRAWN = 1_000_000_000  # tokens from which on numpy draws no shuffled table


@dataclass(frozen=True)
class FlowStage:
    """Where tokens are on their way: the token itself, its code somewhere, or what it predicts.

    Attributes:
        name: "token", the name of a quantizer, or "prediction".
        kind: Whether nodes are tokens that were read, codes, or tokens that were predicted.
        nodes: Codes, or token ids, that occurred, in order.
        n_tokens: Tokens in each of them.
        texts: The text of each node that is a token; None for codes.
    """

    name: str
    kind: StageKind
    nodes: Int[np.ndarray, " n"]
    n_tokens: Int[np.ndarray, " n"]
    texts: tuple[str, ...] | None = None

    @property
    def n_nodes(self) -> int:
        """Distinct nodes that occurred."""
        return len(self.nodes)

    @property
    def entropy(self) -> float:
        """Entropy of the shares of the nodes, in nats."""
        return entropy(self.n_tokens)

    def tokens_in(self, nodes: Int[np.ndarray, " m"]) -> Int[np.ndarray, " m"]:
        """Tokens in each of some nodes."""
        # Nodes are in order, so a binary search finds them without a table of all codes.
        return self.n_tokens[np.searchsorted(self.nodes, nodes)]

    def texts_of(self, nodes: Int[np.ndarray, " m"]) -> list[str]:
        """The texts of some nodes; "" for codes."""
        if self.texts is None:
            return [""] * len(nodes)
        return [self.texts[index] for index in np.searchsorted(self.nodes, nodes)]


class _Event(NamedTuple):
    """A row of `ConceptFlow.events`."""

    source: str
    target: str
    event: str
    codes: tuple[int, ...]
    next_codes: tuple[int, ...]
    n_tokens: int


@dataclass(frozen=True)
class FlowStep:
    """How tokens go from one stage to the next, as counts of the pairs that occurred.

    Attributes:
        source: The first stage.
        target: The second.
        codes: Node of the first stage of each pair.
        next_codes: Node of the second stage of each pair.
        counts: Tokens of each pair.
        mutual_information: Mutual information of both stages, in nats.
        shuffled: The same had one stage been shuffled over the tokens: what a finite sample of
            independent stages gives, and so the baseline. NaN from 1e9 tokens on, where it is
            next to nothing.
    """

    source: FlowStage
    target: FlowStage
    codes: Int[np.ndarray, " m"]
    next_codes: Int[np.ndarray, " m"]
    counts: Int[np.ndarray, " m"]
    mutual_information: float
    shuffled: float

    @property
    def n_tokens(self) -> int:
        """Tokens that went this way."""
        return int(self.counts.sum())

    def frame(self) -> pd.DataFrame:
        """One row for each pair; see `ConceptFlow.frame`."""
        n_here = self.source.tokens_in(self.codes)
        n_next = self.target.tokens_in(self.next_codes)
        expected = n_here / self.n_tokens * n_next
        columns = {
            "source": self.source.name,
            "code": self.codes,
            "text": self.source.texts_of(self.codes),
            "target": self.target.name,
            "next_code": self.next_codes,
            "next_text": self.target.texts_of(self.next_codes),
            "count": self.counts,
            "share": self.counts / n_here,
            "back_share": self.counts / n_next,
            "expected": expected,
            "lift": self.counts / expected,
        }
        return pd.DataFrame(columns)

    def events(self) -> pd.DataFrame:
        """Persistent, splitting and merging codes, as in `ConceptFlow.events`; none for tokens."""
        rows = self._events() if self._is_between_codes else []
        return pd.DataFrame(rows, columns=list(_Event._fields))

    @property
    def _is_between_codes(self) -> bool:
        return self.source.kind == self.target.kind == "codes"

    def _events(self) -> list[_Event]:
        onward = self.counts / self.source.tokens_in(self.codes)
        back = self.counts / self.target.tokens_in(self.next_codes)
        # With a majority on both sides, a code has at most one partner that it persists in.
        stays = (onward > _MAJORITY) & (back > _MAJORITY)
        events: list[_Event] = []
        for index in np.flatnonzero(stays).tolist():
            codes = (int(self.codes[index]),)
            next_codes = (int(self.next_codes[index]),)
            events.append(self._event("persistent", codes, next_codes, int(self.counts[index])))
        # A code that persists and sheds a tenth of its tokens is still the same concept.
        splits = (onward >= _PART) & (back > _MAJORITY)
        splits &= ~np.isin(self.codes, self.codes[stays])
        for code, next_codes, count in self._groups(self.codes, self.next_codes, splits):
            events.append(self._event("splitting", (code,), next_codes, count))
        merges = (back >= _PART) & (onward > _MAJORITY)
        merges &= ~np.isin(self.next_codes, self.next_codes[stays])
        for next_code, codes, count in self._groups(self.next_codes, self.codes, merges):
            events.append(self._event("merging", codes, (next_code,), count))
        return events

    def _event(
        self, event: str, codes: tuple[int, ...], next_codes: tuple[int, ...], n_tokens: int
    ) -> _Event:
        return _Event(self.source.name, self.target.name, event, codes, next_codes, n_tokens)

    def _groups(
        self, ones: Int[np.ndarray, " m"], others: Int[np.ndarray, " m"], chosen: np.ndarray
    ) -> list[tuple[int, tuple[int, ...], int]]:
        """Each node with at least two chosen partners, its partners by count, and their tokens."""
        groups: list[tuple[int, tuple[int, ...], int]] = []
        for one in np.unique(ones[chosen]).tolist():
            which = np.flatnonzero(chosen & (ones == one))
            if len(which) < 2:  # one part alone is no split: most of the code went elsewhere
                continue
            which = which[np.argsort(-self.counts[which], kind="stable")]
            partners = tuple(others[which].tolist())
            groups.append((one, partners, int(self.counts[which].sum())))
        return groups

    def summary(self) -> dict[str, object]:
        """One row of `ConceptFlow.summary`."""
        events = self.events()

        def share(event: str, side: str, stage: FlowStage) -> float:
            if not self._is_between_codes:
                return np.nan
            # A splitting code has several partners, but its own tokens count once.
            nodes = events.loc[events["event"] == event, side].explode().to_numpy(dtype=np.int64)
            return float(stage.tokens_in(nodes).sum() / self.n_tokens)

        return {
            "source": self.source.name,
            "target": self.target.name,
            "n_tokens": self.n_tokens,
            "mutual_information": self.mutual_information,
            "shuffled": self.shuffled,
            "entropy": self.source.entropy,
            "next_entropy": self.target.entropy,
            "explained": _fraction(self.mutual_information, self.target.entropy),
            "explained_shuffled": _fraction(self.shuffled, self.target.entropy),
            "persistent": share("persistent", "codes", self.source),
            "splitting": share("splitting", "codes", self.source),
            "merging": share("merging", "next_codes", self.target),
        }


def _fraction(information: float, whole: float) -> float:
    # A next stage with a single node has no entropy, so there is nothing to explain.
    return information / whole if whole > 0 else np.nan


def flow_step(source: FlowStage, target: FlowStage, pairs: Tally, *, seed: int) -> FlowStep:
    """A step from the counts of its pairs.

    Args:
        source: The first stage.
        target: The second.
        pairs: Counts of (node of the first, node of the second).
        seed: Random seed for the shuffled control.
    """
    (codes, next_codes), counts = pairs.entries()
    margins = source.entropy + target.entropy
    shuffled = shuffled_entropy(source.n_tokens, target.n_tokens, seed=seed)
    return FlowStep(
        source=source,
        target=target,
        codes=codes,
        next_codes=next_codes,
        counts=counts,
        # Never below 0 but for rounding.
        mutual_information=max(0.0, margins - entropy(counts)),
        shuffled=max(0.0, margins - shuffled),
    )


def shuffled_entropy(
    rows: Int[np.ndarray, " a"], columns: Int[np.ndarray, " b"], *, seed: int
) -> float:
    """Entropy in nats of pairs, had one side been shuffled over the tokens.

    Args:
        rows: Tokens in each node of one side.
        columns: Tokens in each node of the other.
        seed: Random seed for the draw.
    """
    n_tokens = int(rows.sum())
    if n_tokens >= _MOST_DRAWN:
        return float("nan")
    # Every row is a draw, and the entropy is the same either way: the shorter side gives the rows.
    rows, columns = sorted((rows, columns), key=len)
    total = 0.0
    for row in shuffled_rows(rows, columns, seed=seed):
        shares = row[row > 0] / n_tokens
        total -= float((shares * np.log(shares)).sum())
    return total
