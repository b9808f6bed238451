"""One step of a concept flow: how the tokens of one stage go on to the next."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Int

from clvq_lens.concepts.tally import Tally
from clvq_lens.evaluation.agreement import shuffled_rows
from clvq_lens.evaluation.metrics import entropy

StageKind = Literal["token", "codes", "prediction"]
_MAJORITY = 0.5  # of tokens; more than that
_PART = 0.1  # of its tokens that a code must share with each part it splits into or merges from


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
        """Of the shares of the nodes, in nats."""
        return entropy(self.n_tokens)

    def tokens_in(self, nodes: Int[np.ndarray, " m"]) -> Int[np.ndarray, " m"]:
        """Tokens in each of some nodes."""
        return self.n_tokens[np.searchsorted(self.nodes, nodes)]

    def texts_of(self, nodes: Int[np.ndarray, " m"]) -> list[str]:
        """The texts of some nodes; "" for codes."""
        if self.texts is None:
            return [""] * len(nodes)
        return [self.texts[index] for index in np.searchsorted(self.nodes, nodes)]


@dataclass(frozen=True)
class FlowStep:
    """How tokens go from one stage to the next, as counts of the pairs that occurred.

    Attributes:
        source: The first stage.
        target: The second.
        codes: Node of the first stage of each pair.
        next_codes: Node of the second stage of each pair.
        counts: Tokens of each pair.
        mutual_information: Of both stages, in nats.
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
        n_here, n_next = self.source.tokens_in(self.codes), self.target.tokens_in(self.next_codes)
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
        """Persistent, splitting and merging codes; see `ConceptFlow.events`. None for tokens."""
        rows = [] if self.source.kind != "codes" or self.target.kind != "codes" else self._events()
        columns = ["source", "target", "event", "codes", "next_codes", "n_tokens"]
        return pd.DataFrame(rows, columns=columns)

    def _events(self) -> list[tuple[str, str, str, tuple[int, ...], tuple[int, ...], int]]:
        ends = self.source.name, self.target.name
        onward = self.counts / self.source.tokens_in(self.codes)
        back = self.counts / self.target.tokens_in(self.next_codes)
        stays = (onward > _MAJORITY) & (back > _MAJORITY)
        rows: list[tuple[str, str, str, tuple[int, ...], tuple[int, ...], int]] = [
            (*ends, "persistent", (code,), (following,), count)
            for code, following, count in zip(
                *(part[stays].tolist() for part in (self.codes, self.next_codes, self.counts)),
                strict=True,
            )
        ]
        parts = (onward >= _PART) & (back > _MAJORITY) & ~np.isin(self.codes, self.codes[stays])
        for code, following, count in self._groups(self.codes, self.next_codes, parts):
            rows.append((*ends, "splitting", (code,), following, count))
        parts = (back >= _PART) & (onward > _MAJORITY)
        parts &= ~np.isin(self.next_codes, self.next_codes[stays])
        for following, codes, count in self._groups(self.next_codes, self.codes, parts):
            rows.append((*ends, "merging", codes, (following,), count))
        return rows

    def _groups(
        self, ones: Int[np.ndarray, " m"], others: Int[np.ndarray, " m"], chosen: np.ndarray
    ) -> list[tuple[int, tuple[int, ...], int]]:
        """Each node with at least two chosen partners, these by count, and their tokens."""
        groups = []
        for one in np.unique(ones[chosen]).tolist():
            which = np.flatnonzero(chosen & (ones == one))
            which = which[np.argsort(-self.counts[which], kind="stable")]
            if len(which) >= 2:
                groups.append((one, tuple(others[which].tolist()), int(self.counts[which].sum())))
        return groups

    def summary(self) -> dict[str, object]:
        """One row of `ConceptFlow.summary`."""
        events = self.events()
        between_codes = self.source.kind == self.target.kind == "codes"

        def share(event: str, side: str, stage: FlowStage) -> float:
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
            "persistent": share("persistent", "codes", self.source) if between_codes else np.nan,
            "splitting": share("splitting", "codes", self.source) if between_codes else np.nan,
            "merging": share("merging", "next_codes", self.target) if between_codes else np.nan,
        }


def _fraction(information: float, whole: float) -> float:
    return information / whole if whole > 0 else np.nan


def flow_step(source: FlowStage, target: FlowStage, pairs: Tally, *, seed: int) -> FlowStep:
    """A step from the counts of its pairs.

    Args:
        source: The first stage.
        target: The second.
        pairs: Counts of (node of the first, node of the second).
        seed: Of the shuffled control.
    """
    (codes, following), counts = pairs.entries()
    margins = source.entropy + target.entropy
    shuffled = shuffled_entropy(source.n_tokens, target.n_tokens, seed=seed)
    return FlowStep(
        source=source,
        target=target,
        codes=codes,
        next_codes=following,
        counts=counts,
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
        seed: Of the draw.
    """
    n_tokens = int(rows.sum())
    if n_tokens >= 1_000_000_000:  # more than numpy draws from
        return float("nan")
    rows, columns = sorted((rows, columns), key=len)
    total = 0.0
    for row in shuffled_rows(rows, columns, seed=seed):
        shares = row[row > 0] / n_tokens
        total -= float((shares * np.log(shares)).sum())
    return total
