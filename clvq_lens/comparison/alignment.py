"""Alignment of codes with known labels, as latent-concept analysis names it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float, Int

from clvq_lens.arguments import check_count, check_is, check_seed
from clvq_lens.comparison.tokens import SharedTokens
from clvq_lens.config import LongTexts
from clvq_lens.errors import ConfigError, DataError
from clvq_lens.evaluation.agreement import shuffled
from clvq_lens.evaluation.labels import TokenLabels
from clvq_lens.evaluation.partitions import contingency
from clvq_lens.lens import Lens
from clvq_lens.plots.alignment import plot_alignment
from clvq_lens.training.documents import Data

IDENTITY = "token identity"
_THRESHOLDS = (0.8, 0.9, 0.95)
_IN_PLOT = tuple(np.arange(0.55, 1.001, 0.05).round(2).tolist())


class Aligned(NamedTuple):
    """How far codes are aligned at one threshold; see `Alignment.frame`."""

    codes_aligned: float
    tokens_covered: float
    labels_found: float


@dataclass(frozen=True)
class LabelledCodes:
    """The commonest label of every code that has enough tokens, and the same by chance.

    Attributes:
        codes: The codes.
        n_tokens: Tokens of each.
        labels: Number of the commonest label of each.
        shares: Fraction of its tokens with that label.
        tokens: Commonest token of each.
        token_shares: Fraction of its tokens that are this one.
        chance_labels: Commonest labels, had the labels been shuffled over the tokens.
        chance_shares: Their shares.
    """

    codes: Int[np.ndarray, " k"]
    n_tokens: Int[np.ndarray, " k"]
    labels: Int[np.ndarray, " k"]
    shares: Float[np.ndarray, " k"]
    tokens: tuple[str, ...]
    token_shares: Float[np.ndarray, " k"]
    chance_labels: Int[np.ndarray, "shuffles k"]
    chance_shares: Float[np.ndarray, "shuffles k"]


@dataclass(frozen=True)
class Alignment:
    """Which codes are aligned with which known labels, beside token identity and chance.

    Attributes:
        methods: The labels of the codes of each lens, and of token identity.
        label_names: All labels.
        label_tokens: Tokens with each.
        threshold: Fraction of a code's tokens that must have one label.
        min_tokens: Codes and labels with fewer tokens are not judged.
    """

    methods: Mapping[str, LabelledCodes]
    label_names: tuple[str, ...]
    label_tokens: Int[np.ndarray, " labels"]
    threshold: float
    min_tokens: int

    def frame(self) -> pd.DataFrame:
        """One row for each method at the threshold.

        ``codes_aligned`` is the fraction of the ``n_codes`` codes that were judged,
        ``tokens_covered`` that of all tokens that are in an aligned code, ``labels_found`` that of
        the labels with a code of their own. Columns that end in ``shuffled`` are means over
        shuffled labels (the baseline), and ``highest`` the highest of them. ``one_token`` is the
        fraction of aligned codes that are merely one token (as large a part of their tokens), and
        ``covered_by_others`` the fraction of all tokens in aligned codes that are not.
        """
        return self.at((self.threshold,))

    def at(self, thresholds: Sequence[float] = _THRESHOLDS) -> pd.DataFrame:
        """The same for several thresholds: one row for each method and threshold."""
        return pd.DataFrame(
            [
                self._row(method, float(threshold))
                for method in self.methods
                for threshold in thresholds
            ]
        )

    def codes(self) -> pd.DataFrame:
        """One row for each aligned code, most tokens first."""
        parts = []
        for method, found in self.methods.items():
            aligned = np.flatnonzero(found.shares >= self.threshold)
            chosen = aligned[np.argsort(-found.n_tokens[aligned], kind="stable")]
            columns = {
                "method": method,
                "code": found.codes[chosen],
                "label": [self.label_names[number] for number in found.labels[chosen]],
                "share": found.shares[chosen],
                "n_tokens": found.n_tokens[chosen],
                "token": [found.tokens[number] for number in chosen],
                "token_share": found.token_shares[chosen],
                "one_token": found.token_shares[chosen] >= self.threshold,
            }
            parts.append(pd.DataFrame(columns))
        return pd.concat(parts, ignore_index=True)

    def labels(self) -> pd.DataFrame:
        """One row for each method and judged label, the commonest label first: its codes.

        ``covered`` is the fraction of the label's ``n_tokens`` tokens that are in one of its codes,
        ``codes`` lists these, most tokens first.
        """
        aligned = self.codes()
        order = self._judged[np.argsort(-self.label_tokens[self._judged], kind="stable")]
        rows = []
        for method in self.methods:
            for number in order:
                name, total = self.label_names[number], int(self.label_tokens[number])
                chosen = aligned[(aligned["method"] == method) & (aligned["label"] == name)]
                held = (chosen["share"] * chosen["n_tokens"]).sum()
                row = {"method": method, "label": name, "n_tokens": total, "n_codes": len(chosen)}
                rows.append({**row, "covered": held / total, "codes": tuple(chosen["code"])})
        return pd.DataFrame(rows)

    def plot(self) -> go.Figure:
        """The fractions over the threshold, and how much of each label its codes cover."""
        return plot_alignment(self.at(_IN_PLOT), self.labels(), threshold=self.threshold)

    @property
    def _judged(self) -> Int[np.ndarray, " n"]:
        """Labels with enough tokens."""
        return np.flatnonzero(self.label_tokens >= self.min_tokens)

    def _row(self, method: str, threshold: float) -> dict[str, object]:
        found = self.methods[method]
        aligned = found.shares >= threshold
        one_token = aligned & (found.token_shares >= threshold)
        others = found.n_tokens[aligned & ~one_token].sum() / self.label_tokens.sum()
        row: dict[str, object] = {"method": method, "threshold": threshold}
        row |= {"n_codes": len(aligned), "n_aligned": int(aligned.sum())}
        real = self._aligned(found, found.labels, found.shares, threshold)
        chance = np.array(
            [
                self._aligned(found, labels, shares, threshold)
                for labels, shares in zip(found.chance_labels, found.chance_shares, strict=True)
            ]
        )
        for index, (name, value) in enumerate(real._asdict().items()):
            row |= {name: value, f"{name}_shuffled": chance[:, index].mean()}
            row |= {f"{name}_highest": chance[:, index].max()}
        row["one_token"] = one_token.sum() / aligned.sum() if aligned.any() else float("nan")
        return {**row, "covered_by_others": others}

    def _aligned(
        self, found: LabelledCodes, labels: np.ndarray, shares: np.ndarray, threshold: float
    ) -> Aligned:
        aligned = shares >= threshold
        n_found = np.isin(self._judged, labels[aligned]).sum()
        return Aligned(
            codes_aligned=float(aligned.sum() / max(1, len(aligned))),
            tokens_covered=float(found.n_tokens[aligned].sum() / self.label_tokens.sum()),
            labels_found=float(n_found / max(1, len(self._judged))),
        )


def alignment(
    lenses: Lens | Mapping[str, Lens],
    data: Data,
    labels: TokenLabels,
    *,
    threshold: float = 0.9,
    min_tokens: int = 10,
    n_shuffles: int = 20,
    long_texts: LongTexts = "split",
    seed: int = 0,
) -> Alignment:
    """Which codes are a known label, such as a part of speech?

    A code is aligned with a label if at least a ``threshold`` of its tokens have it (theta-aligned
    in latent-concept analysis: ConceptX, LACOAT). Three baselines stand beside: labels shuffled
    over the tokens; token identity, where every token of the vocabulary is a code; and, among the
    aligned codes, those that are merely one token and so say nothing that the token did not.

    Args:
        lenses: A lens, or several by name, on models of the same tokenizer.
        data: Documents that fit in memory.
        labels: Of every real token of every document; `clvq_lens.token_labels` makes them from
            labelled words.
        threshold: In (0.5, 1], so that a code has one label at most.
        min_tokens: Codes and labels with fewer tokens are not judged: a code with a single token
            is always pure.
        n_shuffles: Of the labels.
        long_texts: What to do with a text beyond the context.
        seed: Of the shuffled labels.

    Raises:
        ConfigError: If the threshold, ``min_tokens`` or ``n_shuffles`` is impossible.
        DataError: If labels do not match the tokens, or lenses make different tokens.

    Example:
        >>> alignment(lens, texts, cl.token_labels(model, texts, spans)).frame()  # doctest: +SKIP
    """
    check_count("min_tokens", min_tokens)
    check_count("n_shuffles", n_shuffles)
    check_seed(seed)
    if not isinstance(threshold, int | float) or not 0.5 < threshold <= 1:
        raise ConfigError(f"threshold is {threshold!r}. Pass a number above 0.5, up to 1.")
    if isinstance(lenses, Lens):
        lenses = {"codes": lenses}
    remedy = "Pass a lens, or {name: lens, ...}."
    check_is("lenses", lenses, Mapping, remedy)
    for lens in lenses.values():
        check_is("One of the lenses", lens, Lens, remedy)
    named = dict(lenses)
    if not named or IDENTITY in named:
        raise DataError(
            f"The lenses are {sorted(named)}. Pass at least one, and none by the name of the "
            f"baseline, {IDENTITY!r}."
        )
    tokens = SharedTokens(data, long_texts=long_texts)
    codes = {name: tokens.codes(lens) for name, lens in named.items()}
    label_names, numbers = np.unique(np.array(tokens.labels(labels)), return_inverse=True)
    vocabulary = next(iter(named.values())).host.vocabulary
    ids, tokens_seen = np.unique(tokens.ids, return_inverse=True)
    words = _Words(vocabulary.names(torch.from_numpy(ids)), tokens_seen)
    found = {
        name: _labelled(code, numbers, len(label_names), words, min_tokens, n_shuffles, seed)
        for name, code in {**codes, IDENTITY: tokens.ids}.items()
    }
    return Alignment(
        methods=found,
        label_names=tuple(map(str, label_names)),
        label_tokens=np.bincount(numbers, minlength=len(label_names)),
        threshold=threshold,
        min_tokens=min_tokens,
    )


class _Words(NamedTuple):
    """The different tokens, and which of them each token is."""

    names: list[str]
    numbers: np.ndarray


def _labelled(
    codes: Int[np.ndarray, " n"],
    labels: Int[np.ndarray, " n"],
    n_labels: int,
    words: _Words,
    min_tokens: int,
    n_shuffles: int,
    seed: int,
) -> LabelledCodes:
    used, rows = np.unique(codes, return_inverse=True)
    counts = contingency(rows, labels, len(used), n_labels)
    n_tokens = counts.sum(1)
    judged = np.flatnonzero(n_tokens >= min_tokens)
    commonest, held = (part[judged] for part in _commonest(rows, words))
    chance = np.stack(
        [shuffled(counts, seed=seed + number)[judged] for number in range(n_shuffles)]
    )
    n, counts = n_tokens[judged], counts[judged]
    return LabelledCodes(
        codes=used[judged],
        n_tokens=n,
        labels=counts.argmax(1),
        shares=counts.max(1) / n,
        tokens=tuple(words.names[int(number)] for number in commonest),
        token_shares=held / n,
        chance_labels=chance.argmax(2),
        chance_shares=chance.max(2) / n,
    )


def _commonest(
    rows: Int[np.ndarray, " n"], words: _Words
) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " k"]]:
    """The commonest word of every row and how often it occurs: no table of rows by words."""
    pairs, counts = np.unique(
        rows.astype(np.int64) * len(words.names) + words.numbers, return_counts=True
    )
    row, word = np.divmod(pairs, len(words.names))
    order = np.lexsort((-word, counts, row))  # of each row the commonest comes last
    last = order[np.flatnonzero(np.diff(row[order], append=-1))]
    return word[last], counts[last]
