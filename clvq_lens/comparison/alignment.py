"""Alignment of codes with known labels, as latent-concept analysis names it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float, Int
from tqdm.auto import tqdm

from clvq_lens.arguments import check_count, check_seed
from clvq_lens.comparison.named_lenses import named_lenses
from clvq_lens.comparison.shared_tokens import SharedTokens
from clvq_lens.config import LongTexts
from clvq_lens.data.documents import Data
from clvq_lens.data.token_labels import TokenLabels
from clvq_lens.errors import ConfigError
from clvq_lens.host.vocabulary import Vocabulary
from clvq_lens.lens import Lens
from clvq_lens.plots.alignment_panels import plot_alignment
from clvq_lens.showing import Shown
from clvq_lens.stats.agreement import shuffled
from clvq_lens.stats.contingency import contingency

IDENTITY = "token identity"
_THRESHOLDS = (0.8, 0.9, 0.95)
_IN_PLOT = tuple(np.arange(0.55, 1.001, 0.05).round(2).tolist())
_IN_PREVIEW = ["method", "n_codes", "codes_aligned", "codes_aligned_highest", "tokens_covered"]
_IN_PREVIEW += ["labels_found", "one_token", "covered_by_others"]


class Aligned(NamedTuple):
    """How far codes are aligned at one threshold; see `Alignment.frame`."""

    codes_aligned: float
    tokens_covered: float
    labels_found: float


@dataclass(frozen=True, repr=False)
class LabeledCodes(Shown):
    """The commonest label of every code that has enough tokens, and the same by chance.

    Attributes:
        codes: The codes.
        n_tokens: Tokens of each code.
        labels: Number of the commonest label of each code.
        shares: Fraction of its tokens with that label.
        tokens: Commonest token of each code.
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

    def headline(self) -> str:
        """How many codes and tokens were judged."""
        return f"{len(self.codes):,} codes, {int(self.n_tokens.sum()):,} tokens"


@dataclass(frozen=True, repr=False)
class Alignment(Shown):
    """Which codes are aligned with which known labels, beside token identity and chance.

    Attributes:
        methods: The labels of the codes of each lens, and of token identity.
        label_names: All labels.
        label_tokens: Number of tokens with each label.
        threshold: Fraction of a code's tokens that must have one label.
        min_tokens: Codes and labels with fewer tokens are not judged.
    """

    methods: Mapping[str, LabeledCodes]
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
        return self.over_thresholds((self.threshold,))

    def over_thresholds(self, thresholds: Sequence[float] = _THRESHOLDS) -> pd.DataFrame:
        """The same for several thresholds: one row for each method and threshold."""
        rows = []
        for method in self.methods:
            for threshold in thresholds:
                rows.append(self._row(method, float(threshold)))
        return pd.DataFrame(rows)

    def codes(self) -> pd.DataFrame:
        """One row for each aligned code, most tokens first."""
        tables = []
        for method, labeled in self.methods.items():
            aligned = np.flatnonzero(labeled.shares >= self.threshold)
            # Stable: codes with as many tokens keep their order on every machine.
            chosen = aligned[np.argsort(-labeled.n_tokens[aligned], kind="stable")]
            columns = {
                "method": method,
                "code": labeled.codes[chosen],
                "label": [self.label_names[number] for number in labeled.labels[chosen]],
                "share": labeled.shares[chosen],
                "n_tokens": labeled.n_tokens[chosen],
                "token": [labeled.tokens[number] for number in chosen],
                "token_share": labeled.token_shares[chosen],
                "one_token": labeled.token_shares[chosen] >= self.threshold,
            }
            tables.append(pd.DataFrame(columns))
        return pd.concat(tables, ignore_index=True)

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
                label, n_tokens = self.label_names[number], int(self.label_tokens[number])
                chosen = aligned[(aligned["method"] == method) & (aligned["label"] == label)]
                # Not all tokens of a code: those with another label are not covered by it.
                n_covered = (chosen["share"] * chosen["n_tokens"]).sum()
                row = {
                    "method": method,
                    "label": label,
                    "n_tokens": n_tokens,
                    "n_codes": len(chosen),
                    "covered": n_covered / n_tokens,
                    "codes": tuple(chosen["code"]),
                }
                rows.append(row)
        return pd.DataFrame(rows)

    def plot(self) -> go.Figure:
        """The fractions over the threshold, and how much of each label its codes cover."""
        return plot_alignment(
            self.over_thresholds(_IN_PLOT), self.labels(), threshold=self.threshold
        )

    def headline(self) -> str:
        """The fraction of codes that are aligned, for each method, and with how many labels."""
        frame = self.frame()
        aligned = []
        for method, fraction in zip(frame["method"], frame["codes_aligned"], strict=True):
            aligned.append(f"{method} {fraction:.3f}")
        return (
            f"codes aligned at {self.threshold:g}: {', '.join(aligned)}; {len(self._judged)} "
            f"labels, {int(self.label_tokens.sum()):,} tokens"
        )

    def preview(self) -> pd.DataFrame:
        """Fractions and their baselines for each method."""
        return self.frame().loc[:, _IN_PREVIEW]

    @property
    def _judged(self) -> Int[np.ndarray, " n"]:
        """Labels with enough tokens."""
        return np.flatnonzero(self.label_tokens >= self.min_tokens)

    def _row(self, method: str, threshold: float) -> dict[str, object]:
        labeled = self.methods[method]
        aligned = labeled.shares >= threshold
        one_token = aligned & (labeled.token_shares >= threshold)
        row: dict[str, object] = {
            "method": method,
            "threshold": threshold,
            "n_codes": len(aligned),
            "n_aligned": int(aligned.sum()),
        }
        real = self._aligned(labeled, labeled.labels, labeled.shares, threshold)
        by_chance = []
        for labels, shares in zip(labeled.chance_labels, labeled.chance_shares, strict=True):
            by_chance.append(self._aligned(labeled, labels, shares, threshold))
        chance = np.array(by_chance)
        for column, (name, value) in enumerate(real._asdict().items()):
            row[name] = value
            row[f"{name}_shuffled"] = chance[:, column].mean()
            row[f"{name}_highest"] = chance[:, column].max()
        row["one_token"] = one_token.sum() / aligned.sum() if aligned.any() else float("nan")
        n_others = labeled.n_tokens[aligned & ~one_token].sum()
        row["covered_by_others"] = n_others / self.label_tokens.sum()
        return row

    def _aligned(
        self, labeled: LabeledCodes, labels: np.ndarray, shares: np.ndarray, threshold: float
    ) -> Aligned:
        """The fractions, for labels of the codes that are real or shuffled."""
        aligned = shares >= threshold
        n_found = np.isin(self._judged, labels[aligned]).sum()
        return Aligned(
            codes_aligned=float(aligned.sum() / max(1, len(aligned))),
            tokens_covered=float(labeled.n_tokens[aligned].sum() / self.label_tokens.sum()),
            labels_found=float(n_found / max(1, len(self._judged))),
        )


def alignment(
    lenses: Lens | Mapping[str, Lens],
    data: Data,
    token_labels: TokenLabels,
    *,
    threshold: float = 0.9,
    min_tokens: int = 10,
    n_shuffles: int = 20,
    long_texts: LongTexts = "split",
    seed: int = 0,
    progress: bool = True,
) -> Alignment:
    """Which codes are a known label, such as a part of speech?

    A code is aligned with a label if at least a ``threshold`` of its tokens have it (theta-aligned
    in latent-concept analysis: ConceptX, LACOAT). Three baselines stand beside: labels shuffled
    over the tokens; token identity, where every token of the vocabulary is a code; and, among the
    aligned codes, those that are merely one token and so say nothing that the token did not.

    Args:
        lenses: A lens, or several by name, on models of the same tokenizer.
        data: Documents that fit in memory.
        token_labels: A label of every real token of every document; `clvq_lens.token_labels` makes
            them from labeled words.
        threshold: In (0.5, 1], so that a code has one label at most.
        min_tokens: Codes and labels with fewer tokens are not judged: a code with a single token
            is always pure.
        n_shuffles: How often the labels are shuffled.
        long_texts: What to do with a text beyond the context.
        seed: Random seed for the shuffled labels.
        progress: Whether to show a progress bar.

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
    named = named_lenses(lenses, taken=[IDENTITY])
    tokens = SharedTokens(data, long_texts=long_texts)
    n_steps = 2 * len(named) + 1  # each lens is read and judged, token identity only judged
    with tqdm(total=n_steps, desc="alignment", disable=not progress) as bar:
        codes: dict[str, np.ndarray] = {}
        for name, lens in named.items():
            codes[name] = tokens.codes(lens)
            bar.update()
        codes[IDENTITY] = tokens.ids  # the baseline: every token of the vocabulary is a code
        label_names, labels = np.unique(np.array(tokens.labels(token_labels)), return_inverse=True)
        words = _TokenWords.of(tokens.ids, next(iter(named.values())).host.vocabulary)
        judging = _Judging(labels, len(label_names), words, min_tokens, n_shuffles, seed)
        methods: dict[str, LabeledCodes] = {}
        for name in codes:
            methods[name] = judging.labeled(codes[name])
            bar.update()
    return Alignment(
        methods=methods,
        label_names=tuple(map(str, label_names)),
        label_tokens=np.bincount(labels, minlength=len(label_names)),
        threshold=threshold,
        min_tokens=min_tokens,
    )


class _TokenWords(NamedTuple):
    """The different tokens, and which of them each token is."""

    names: list[str]
    numbers: np.ndarray

    @classmethod
    def of(cls, ids: Int[np.ndarray, " n"], vocabulary: Vocabulary) -> "_TokenWords":
        """From the ids of the tokens."""
        different, numbers = np.unique(ids, return_inverse=True)
        return cls(vocabulary.names(torch.from_numpy(different)), numbers)


class _Judging(NamedTuple):
    """What the codes of every method are judged by."""

    labels: Int[np.ndarray, " n"]
    n_labels: int
    words: _TokenWords
    min_tokens: int
    n_shuffles: int
    seed: int

    def labeled(self, codes: Int[np.ndarray, " n"]) -> LabeledCodes:
        """The commonest label and token of every code with enough tokens, and those by chance."""
        used, rows = np.unique(codes, return_inverse=True)
        counts = contingency(rows, self.labels, shape=(len(used), self.n_labels))
        n_tokens = counts.sum(1)
        judged = np.flatnonzero(n_tokens >= self.min_tokens)
        commonest, n_commonest = _commonest(rows, self.words)
        by_chance = []
        for number in range(self.n_shuffles):
            # All tokens are shuffled, not only those of judged codes: chance deals to every code.
            by_chance.append(shuffled(counts, seed=self.seed + number)[judged])
        chance = np.stack(by_chance)
        n_tokens, counts = n_tokens[judged], counts[judged]
        return LabeledCodes(
            codes=used[judged],
            n_tokens=n_tokens,
            labels=counts.argmax(1),
            shares=counts.max(1) / n_tokens,
            tokens=tuple(self.words.names[int(number)] for number in commonest[judged]),
            token_shares=n_commonest[judged] / n_tokens,
            chance_labels=chance.argmax(2),
            chance_shares=chance.max(2) / n_tokens,
        )


def _commonest(
    rows: Int[np.ndarray, " n"], words: _TokenWords
) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " k"]]:
    """The commonest word of every row and how often it occurs: no table of rows by words."""
    # A row and a word in one number: the table would have as many columns as the vocabulary words.
    pairs, counts = np.unique(
        rows.astype(np.int64) * len(words.names) + words.numbers, return_counts=True
    )
    row, word = np.divmod(pairs, len(words.names))
    order = np.lexsort((-word, counts, row))  # the commonest word of each row comes last
    last = order[np.flatnonzero(np.diff(row[order], append=-1))]
    return word[last], counts[last]
