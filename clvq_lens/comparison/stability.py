"""Stability: do other seeds, or other halves of the data, find the same codes?"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from clvq_lens.arguments import check_choice, check_count, check_is, check_seed
from clvq_lens.comparison.refits import How
from clvq_lens.comparison.tokens import SharedTokens
from clvq_lens.config import LongTexts
from clvq_lens.errors import DataError
from clvq_lens.evaluation.agreement import shuffled
from clvq_lens.evaluation.bootstrap import BootstrapSums, Estimate, estimates_frame
from clvq_lens.evaluation.partitions import (
    AgreementTerms,
    best_matching,
    contingency,
    matched_accuracy,
)
from clvq_lens.lens import Lens
from clvq_lens.plots.stability import plot_stability
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from clvq_lens.training.documents import Data


@dataclass(frozen=True, kw_only=True)
class FitPair:
    """How well the codes of two fits agree on the same tokens.

    Attributes:
        method: Of both.
        first: Which fit.
        second: The other.
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


@dataclass(frozen=True)
class Stability:
    """Agreement of codes between fits of the same method, for one or more methods.

    Attributes:
        pairs: Of fits.
        ami: Mean over the pairs of each method, with its interval over documents.
        matched: The same for the accuracy after matching.
        n_fits: Of each method.
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

        Means over pairs of fits; ``low`` and ``high`` end the 95 % bootstrap interval over
        documents, ``lowest`` and ``highest`` tell the spread over pairs. Columns that end in
        ``shuffled`` are the baselines.
        """
        rows = []
        for method, pairs in self.pairs_frame().groupby("method", sort=False):
            name, means = str(method), pairs.mean(numeric_only=True)
            row = {"method": name, "n_fits": self.n_fits[name], "n_pairs": len(pairs)}
            for metric, estimates in (("ami", self.ami), ("matched", self.matched)):
                estimate = estimates[name]
                row |= {metric: float(estimate), f"{metric}_low": estimate.low}
                row |= {f"{metric}_high": estimate.high, f"{metric}_lowest": pairs[metric].min()}
                row |= {f"{metric}_highest": pairs[metric].max()}
                row |= {f"{metric}_shuffled": means[f"{metric}_shuffled"]}
            row |= {name: means[name] for name in ("cosine", "cosine_shuffled")}
            rows.append(row)
        return pd.DataFrame(rows)

    def pairs_frame(self) -> pd.DataFrame:
        """One row for each pair of fits."""
        return estimates_frame(self.pairs)

    def plot(self) -> go.Figure:
        """Agreement of each method: mean, interval, every pair of fits, and chance."""
        return plot_stability(self.frame(), self.pairs_frame())


def stability(
    lenses: Mapping[str, Sequence[Lens]],
    data: Data,
    *,
    how: How = "seeds",
    long_texts: LongTexts = "split",
    n_replicates: int = 1_000,
    seed: int = 0,
) -> Stability:
    """Do fits of the same method agree on which tokens belong together?

    The adjusted mutual information of two fits' codes on the same held-out tokens is
    (I - E[I]) / ((H(A) + H(B)) / 2 - E[I]): 1 if they are the same partition, 0 for chance whatever
    the number of codes. It tells nothing of what the codes are good for: token identity, which no
    fit changes, has 1.

    Args:
        lenses: For each method several fits, such as from `refits`: all on models of the same
            tokenizer.
        data: Documents that no fit has seen.
        how: "seeds": every pair of fits is compared. "halves": the first with the second, the third
            with the fourth and so on, as `refits` orders them.
        long_texts: What to do with a text beyond the context.
        n_replicates: Of the bootstrap over documents.
        seed: Of the bootstrap and of the shuffled codes.

    Raises:
        ConfigError: If ``n_replicates`` or ``seed`` has an impossible value.
        DataError: If a method has fewer than two fits, or an odd number of halves, or if lenses
            do not make the same tokens of the data.

    Example:
        >>> stability({"codes": [lens, *others]}, held_out).frame()  # doctest: +SKIP
    """
    check_count("n_replicates", n_replicates)
    check_seed(seed)
    remedy = "Pass {name: [lens, other_lens], ...}."
    check_is("lenses", lenses, Mapping, remedy)
    for fits in lenses.values():
        check_is("One of the methods", fits, Sequence, remedy)
        for lens in fits:
            check_is("One of the fits", lens, Lens, remedy)
    check_choice("how", how, get_args(How))
    compared = {method: list(_compared(method, len(fits), how)) for method, fits in lenses.items()}
    if not compared:
        raise DataError("There is no fit to compare. Pass {name: [lens, other_lens], ...}.")
    tokens = SharedTokens(data, long_texts=long_texts)
    codes = {method: [tokens.codes(fit) for fit in fits] for method, fits in lenses.items()}
    sums = BootstrapSums(n_replicates=n_replicates, seed=seed)
    pairs: list[FitPair] = []
    ami: dict[str, Estimate] = {}
    matched: dict[str, Estimate] = {}
    for method, fits in lenses.items():
        agreements = [
            _Agreement(method, pair, fits, codes[method], tokens.documents, sums, seed)
            for pair in compared[method]
        ]
        pairs += [agreement.pair() for agreement in agreements]
        for means, name in ((ami, "ami"), (matched, "matched")):
            statistics = [getattr(agreement, name) for agreement in agreements]
            means[method] = sums.estimate(
                lambda s, each=statistics: np.mean([statistic(s) for statistic in each], axis=0)
            )
    n_fits = {method: len(fits) for method, fits in lenses.items()}
    n_documents = len(np.unique(tokens.documents))
    return Stability(tuple(pairs), ami, matched, n_fits, len(tokens.documents), n_documents)


def _compared(method: str, n_fits: int, how: How) -> Iterator[tuple[int, int]]:
    if n_fits < 2 or (how == "halves" and n_fits % 2):
        needed = "two fits at least" if how == "seeds" else "two fits for each split"
        raise DataError(
            f"{method!r} has {n_fits} fits, and it takes {needed}. See refits(lens, data)."
        )
    if how == "halves":
        return zip(range(0, n_fits, 2), range(1, n_fits, 2), strict=True)
    return itertools.combinations(range(n_fits), 2)


class _Agreement:
    """Two fits of a method: counts of their codes, and what resampling of documents needs."""

    def __init__(
        self,
        method: str,
        pair: tuple[int, int],
        fits: Sequence[Lens],
        codes: Sequence[np.ndarray],
        documents: np.ndarray,
        sums: BootstrapSums,
        seed: int,
    ) -> None:
        self._method, self._pair, self._sums, self._seed = method, pair, sums, seed
        self._quantizers = [fits[number].quantizer for number in pair]
        first, second = (codes[number] for number in pair)
        sizes = (quantizer.config.n_codes for quantizer in self._quantizers)
        self._counts = contingency(first, second, *sizes)
        self._terms = AgreementTerms.of(first, second)
        numbers, rows = np.unique(documents, return_inverse=True)
        values = self._terms.sums(rows, len(numbers))
        sums.add(numbers.tolist(), {self._key(name): part for name, part in values.items()})

    def _key(self, name: str) -> str:
        return f"{self._method}/{self._pair}/{name}"

    def ami(self, sums: Mapping[str, np.ndarray]) -> np.ndarray:
        return self._terms.ami({n: sums[self._key(n)] for n in ("mutual", "entropy", "n")})

    def matched(self, sums: Mapping[str, np.ndarray]) -> np.ndarray:
        return sums[self._key("matched")] / sums[self._key("n")]

    def pair(self) -> FitPair:
        control = shuffled(self._counts, seed=self._seed)
        cosine, cosine_shuffled = self._cosines()
        return FitPair(
            method=self._method,
            first=self._pair[0],
            second=self._pair[1],
            ami=self._sums.estimate(self.ami),
            ami_shuffled=self._terms.ami_of(control),
            matched=self._sums.estimate(self.matched),
            matched_shuffled=matched_accuracy(control),
            cosine=cosine,
            cosine_shuffled=cosine_shuffled,
        )

    def _cosines(self) -> tuple[float, float]:
        """Of matched code vectors, and of the same vectors matched at random."""
        pairs = best_matching(self._counts)
        centered = [
            vectors[pairs[:, side]] - mean
            for side, (vectors, mean) in enumerate(map(_vectors_and_mean, self._quantizers))
        ]
        if centered[0].shape != centered[1].shape:
            return float("nan"), float("nan")
        weights = self._counts[pairs[:, 0], pairs[:, 1]]
        order = np.random.default_rng(self._seed).permutation(len(pairs))
        return tuple(  # pyright: ignore[reportReturnType]
            float(np.average(_cosine(centered[0], other), weights=weights))
            for other in (centered[1], centered[1][order])
        )


def _vectors_and_mean(quantizer: CrossLayerQuantizer) -> tuple[np.ndarray, np.ndarray]:
    vectors = quantizer.codebook.vectors.detach().double().cpu().numpy()
    return vectors, quantizer.shares.double().cpu().numpy() @ vectors


def _cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return (a * b).sum(1) / np.maximum(norms, np.finfo(float).tiny)
