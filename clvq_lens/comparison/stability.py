"""Stability: do other seeds, or other halves of the data, find the same codes?"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from tqdm.auto import tqdm

from clvq_lens.arguments import check_choice, check_is, check_seed
from clvq_lens.comparison.refits import How
from clvq_lens.comparison.shared_tokens import SharedTokens
from clvq_lens.config import LongTexts
from clvq_lens.data.documents import Data
from clvq_lens.errors import DataError
from clvq_lens.lens import Lens
from clvq_lens.plots.stability_points import plot_stability
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from clvq_lens.showing import Shown
from clvq_lens.stats.agreement import shuffled
from clvq_lens.stats.contingency import contingency
from clvq_lens.stats.estimates import Estimate, estimates_frame
from clvq_lens.stats.jackknife import JackknifeSums, Statistic
from clvq_lens.stats.partitions import (
    AgreementTerms,
    best_matching,
    matched_accuracy,
)

_IN_PREVIEW = ["method", "n_fits", "ami", "ami_low", "ami_high", "ami_shuffled"]
_IN_PREVIEW += ["matched", "matched_shuffled", "cosine", "cosine_shuffled"]
_AT_MOST_ONE = (-math.inf, 1.0)


@dataclass(frozen=True, kw_only=True)
class FitPair:
    """How well the codes of two fits agree on the same tokens.

    Attributes:
        method: The method of both fits.
        first: Number of the first fit.
        second: Number of the second fit.
        ami: Adjusted mutual information: 1 the same partition of tokens, 0 chance.
        ami_shuffled: The same with the codes of one shuffled over the tokens.
        matched: Fraction of tokens with the same code, once codes are matched one to one.
        matched_shuffled: The same with the codes of one shuffled over the tokens.
        cosine: Mean over tokens of the cosine of matched code vectors, each relative to the mean of
            its codebook; NaN if their widths differ.
        cosine_shuffled: The same with codes matched at random.
    """

    method: str
    first: int
    second: int
    ami: Estimate
    ami_shuffled: float
    matched: Estimate
    matched_shuffled: float
    cosine: float
    cosine_shuffled: float


@dataclass(frozen=True, repr=False)
class Stability(Shown):
    """Agreement of codes between fits of the same method, for one or more methods.

    Attributes:
        pairs: Every pair of fits.
        ami: Mean over the pairs of each method, with its interval over documents.
        matched: The same for the accuracy after matching.
        n_fits: Number of fits of each method.
        n_tokens: Held-out tokens.
        n_documents: Held-out documents.
    """

    pairs: tuple[FitPair, ...]
    ami: Mapping[str, Estimate]
    matched: Mapping[str, Estimate]
    n_fits: Mapping[str, int]
    n_tokens: int
    n_documents: int

    def frame(self) -> pd.DataFrame:
        """One row for each method.

        Means over pairs of fits; ``low`` and ``high`` end the 95 % interval over
        documents, ``lowest`` and ``highest`` tell the spread over pairs. Columns that end in
        ``shuffled`` are the baselines.
        """
        rows = []
        for method, pairs in self.pairs_frame().groupby("method", sort=False):
            name, means = str(method), pairs.mean(numeric_only=True)
            row = {"method": name, "n_fits": self.n_fits[name], "n_pairs": len(pairs)}
            for metric, estimates in (("ami", self.ami), ("matched", self.matched)):
                estimate = estimates[name]
                row |= {
                    metric: float(estimate),
                    f"{metric}_low": estimate.low,
                    f"{metric}_high": estimate.high,
                    f"{metric}_lowest": pairs[metric].min(),
                    f"{metric}_highest": pairs[metric].max(),
                    f"{metric}_shuffled": means[f"{metric}_shuffled"],
                }
            row |= {"cosine": means["cosine"], "cosine_shuffled": means["cosine_shuffled"]}
            rows.append(row)
        return pd.DataFrame(rows)

    def pairs_frame(self) -> pd.DataFrame:
        """One row for each pair of fits."""
        return estimates_frame(self.pairs)

    def plot(self) -> go.Figure:
        """Agreement of each method: mean, interval, every pair of fits, and chance."""
        return plot_stability(self.frame(), self.pairs_frame())

    def headline(self) -> str:
        """The AMI of each method, and on how many tokens it was measured."""
        amis = ", ".join(f"{method} {ami:.3f}" for method, ami in self.ami.items())
        pairs = "1 pair" if len(self.pairs) == 1 else f"{len(self.pairs)} pairs"
        return (
            f"AMI of fits: {amis}; {pairs}, {self.n_tokens:,} tokens of {self.n_documents:,} "
            f"documents"
        )

    def preview(self) -> pd.DataFrame:
        """Means and baselines of each method."""
        return self.frame().loc[:, _IN_PREVIEW]


def stability(
    lenses: Mapping[str, Sequence[Lens]],
    data: Data,
    *,
    how: How = "seeds",
    long_texts: LongTexts = "split",
    seed: int = 0,
    progress: bool = True,
) -> Stability:
    """Do fits of the same method agree on which tokens belong together?

    The adjusted mutual information of two fits' codes on the same held-out tokens is
    (I - E[I]) / ((H(A) + H(B)) / 2 - E[I]): 1 if they are the same partition, 0 for chance whatever
    the number of codes. It says nothing about what the codes are good for: token identity, which no
    fit changes, has 1.

    Args:
        lenses: For each method several fits, such as from `refits`: all on models of the same
            tokenizer.
        data: Documents that no fit has seen.
        how: "seeds": every pair of fits is compared. "halves": the first with the second, the third
            with the fourth and so on, as `refits` orders them.
        long_texts: What to do with a text beyond the context.
        seed: Random seed for shuffled codes.
        progress: Whether to show a progress bar.

    Raises:
        ConfigError: If ``seed`` or ``how`` has an impossible value.
        DataError: If a method has fewer than two fits, or an odd number of halves, or if lenses
            do not make the same tokens of the data.

    Example:
        >>> stability({"codes": [lens, *others]}, held_out).frame()  # doctest: +SKIP
    """
    check_seed(seed)
    _check_fits(lenses)
    check_choice("how", how, get_args(How))
    compared: dict[str, list[tuple[int, int]]] = {}
    for method, fits in lenses.items():
        compared[method] = _pairs_to_compare(method, len(fits), how)
    if not compared:
        raise DataError("There is no fit to compare. Pass {name: [lens, other_lens], ...}.")
    tokens = SharedTokens(data, long_texts=long_texts)
    sums = JackknifeSums()
    pairs: list[FitPair] = []
    ami: dict[str, Estimate] = {}
    matched: dict[str, Estimate] = {}
    n_fits = {method: len(fits) for method, fits in lenses.items()}
    n_steps = sum(n_fits.values()) + sum(map(len, compared.values()))
    with tqdm(total=n_steps, desc="stability", disable=not progress) as bar:
        codes = _codes_of_all(lenses, tokens, bar)
        for method, fits in lenses.items():
            agreements: list[_FitAgreement] = []
            for pair in compared[method]:
                agreements.append(
                    _FitAgreement(method, pair, fits, codes[method], tokens.documents, sums, seed)
                )
                pairs.append(agreements[-1].as_pair())
                bar.update()
            size = agreements[0].size  # all pairs have the same tokens
            ami[method] = sums.estimate(
                _mean([each.ami for each in agreements]), size=size, limits=_AT_MOST_ONE
            )
            matched[method] = sums.estimate(
                _mean([each.matched for each in agreements]), size=size, limits=(0.0, 1.0)
            )
    n_documents = len(np.unique(tokens.documents))
    return Stability(tuple(pairs), ami, matched, n_fits, len(tokens.documents), n_documents)


def _check_fits(lenses: Mapping[str, Sequence[Lens]]) -> None:
    """Raises `ConfigError` unless these are lists of lenses by name."""
    remedy = "Pass {name: [lens, other_lens], ...}."
    check_is("lenses", lenses, Mapping, remedy)
    for fits in lenses.values():
        check_is("One of the methods", fits, Sequence, remedy)
        for lens in fits:
            check_is("One of the fits", lens, Lens, remedy)


def _pairs_to_compare(method: str, n_fits: int, how: How) -> list[tuple[int, int]]:
    """Which fits are compared, by their numbers."""
    if n_fits < 2 or (how == "halves" and n_fits % 2):
        needed = "two fits at least" if how == "seeds" else "two fits for each split"
        raise DataError(
            f"{method!r} has {n_fits} fits, and it takes {needed}. See refits(lens, data)."
        )
    if how == "halves":
        # Halves of different splits share documents, so they would agree too well.
        return [(first, first + 1) for first in range(0, n_fits, 2)]
    return list(itertools.combinations(range(n_fits), 2))


def _codes_of_all(
    lenses: Mapping[str, Sequence[Lens]], tokens: SharedTokens, bar: tqdm
) -> dict[str, list[np.ndarray]]:
    """The codes that every fit of every method gives the tokens."""
    codes: dict[str, list[np.ndarray]] = {}
    for method, fits in lenses.items():
        codes[method] = []
        for lens in fits:
            codes[method].append(tokens.codes(lens))
            bar.update()
    return codes


def _mean(statistics: Sequence[Statistic]) -> Statistic:
    """The mean of a statistic over pairs of fits, of the same documents in all of them."""

    def mean(sums: Mapping[str, np.ndarray]) -> np.ndarray:
        return np.mean([statistic(sums) for statistic in statistics], axis=0)

    return mean


class _FitAgreement:
    """Two fits of a method: counts of their codes, and what intervals over documents need."""

    def __init__(
        self,
        method: str,
        pair: tuple[int, int],
        fits: Sequence[Lens],
        codes: Sequence[np.ndarray],
        documents: np.ndarray,
        sums: JackknifeSums,
        seed: int,
    ) -> None:
        self._method, self._pair, self._sums, self._seed = method, pair, sums, seed
        first, second = pair
        self._first, self._second = fits[first].quantizer, fits[second].quantizer
        shape = self._first.config.n_codes, self._second.config.n_codes
        self._counts = contingency(codes[first], codes[second], shape=shape)
        self._terms = AgreementTerms.of(codes[first], codes[second])
        numbers, rows = np.unique(documents, return_inverse=True)
        added: dict[str, np.ndarray] = {}
        for name, values in self._terms.sums(rows, len(numbers)).items():
            added[self._key(name)] = values
        sums.add(numbers.tolist(), added)

    def _key(self, name: str) -> str:
        """All pairs share one object, so their sums need names of their own."""
        return f"{self._method}/{self._pair}/{name}"

    @property
    def size(self) -> str:
        """Name of the sum of tokens."""
        return self._key("n")

    def ami(self, sums: Mapping[str, np.ndarray]) -> np.ndarray:
        """Adjusted mutual information on some of the documents."""
        return self._terms.ami({name: sums[self._key(name)] for name in ("mutual", "entropy", "n")})

    def matched(self, sums: Mapping[str, np.ndarray]) -> np.ndarray:
        """Accuracy after matching on some of the documents."""
        return sums[self._key("matched")] / sums[self._key("n")]

    def as_pair(self) -> FitPair:
        """Both measures and the cosine, beside their controls."""
        control = shuffled(self._counts, seed=self._seed)
        cosine, cosine_shuffled = self._cosines()
        return FitPair(
            method=self._method,
            first=self._pair[0],
            second=self._pair[1],
            ami=self._sums.estimate(self.ami, size=self.size, limits=_AT_MOST_ONE),
            ami_shuffled=self._terms.ami_of(control),
            matched=self._sums.estimate(self.matched, size=self.size, limits=(0.0, 1.0)),
            matched_shuffled=matched_accuracy(control),
            cosine=cosine,
            cosine_shuffled=cosine_shuffled,
        )

    def _cosines(self) -> tuple[float, float]:
        """The mean cosine of matched code vectors, and of the same vectors matched at random."""
        pairs = best_matching(self._counts)
        first = _centered_vectors(self._first, pairs[:, 0])
        second = _centered_vectors(self._second, pairs[:, 1])
        if first.shape != second.shape:
            return float("nan"), float("nan")
        weights = self._counts[pairs[:, 0], pairs[:, 1]]
        # Not any other vectors: the control differs from the real matching in its order alone.
        order = np.random.default_rng(self._seed).permutation(len(pairs))
        return (
            float(np.average(_cosine(first, second), weights=weights)),
            float(np.average(_cosine(first, second[order]), weights=weights)),
        )


def _centered_vectors(quantizer: CrossLayerQuantizer, codes: np.ndarray) -> np.ndarray:
    """The vectors of some codes, relative to the mean of the codebook over tokens.

    Raw code vectors share a large mean, which makes any two of them alike.
    """
    vectors = quantizer.codebook.vectors.detach().double().cpu().numpy()
    mean = quantizer.shares.double().cpu().numpy() @ vectors
    return vectors[codes] - mean


def _cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return (a * b).sum(1) / np.maximum(norms, np.finfo(float).tiny)  # a vector may be the mean
