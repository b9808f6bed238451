"""Probing: can a linear probe tell known classes of texts from codes, and from activations?"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Bool, Float
from tqdm.auto import tqdm

from clvq_lens.arguments import check_choice, check_count, check_seed, closest
from clvq_lens.comparison.named_lenses import named_lenses
from clvq_lens.comparison.probed_texts import read_probed
from clvq_lens.data.documents import Data
from clvq_lens.data.probing_data_sets import probing_data_sets
from clvq_lens.data.tokens import check_long_texts
from clvq_lens.errors import ConfigError, HostMismatchError
from clvq_lens.faithfulness.classified_texts import ClassifiedTexts
from clvq_lens.faithfulness.folds import make_folds
from clvq_lens.faithfulness.probes import linear_probes
from clvq_lens.faithfulness.tokenized_texts import TokenizedTexts
from clvq_lens.host.attachment import ready
from clvq_lens.lens import Lens
from clvq_lens.plots.probing_points import plot_probing
from clvq_lens.readouts.readout import Sentence
from clvq_lens.readouts.salience import Cut
from clvq_lens.showing import Shown
from clvq_lens.stats.estimates import Estimate, Measured, estimates_frame
from clvq_lens.stats.jackknife import DocumentEstimate, JackknifeSums, Sums

K_MEANS = "k-means"
RAW = "raw activations"
MAJORITY = "largest class"
"""What always naming the largest class of a data set would give."""


@dataclass(frozen=True, kw_only=True)
class Probed:
    """How well a probe of one method does on one data set.

    Attributes:
        data_set: Name of the data set.
        method: "codes" or the name of a lens, "k-means", "raw activations" or "largest class".
        n_texts: Number of texts.
        n_classes: Number of classes.
        accuracy: Fraction of texts whose class is right, each told by a probe that was fitted on
            other documents; with its interval over documents.
    """

    data_set: str
    method: str
    n_texts: int
    n_classes: int
    accuracy: DocumentEstimate


@dataclass(frozen=True, repr=False)
class Probing(Shown):
    """Accuracies of linear probes, for each data set and method.

    Attributes:
        results: One for each data set and method.
    """

    results: tuple[Probed, ...]

    @property
    def methods(self) -> list[str]:
        """The methods, in their order."""
        return list(dict.fromkeys(result.method for result in self.results))

    def frame(self) -> pd.DataFrame:
        """One row for each data set and method."""
        return estimates_frame(self.results)

    def summary(self) -> pd.DataFrame:
        """One row for each method: its mean accuracy, with an interval over data sets."""
        rows: list[dict[str, object]] = []
        for method in self.methods:
            accuracies = [float(one.accuracy) for one in self.results if one.method == method]
            mean = _mean(accuracies)
            row: dict[str, object] = {"method": method, "n_data_sets": len(accuracies)}
            row |= {"accuracy": float(mean), "accuracy_low": mean.low, "accuracy_high": mean.high}
            rows.append(row)
        return pd.DataFrame(rows)

    def differences(self, reference: str = RAW) -> pd.DataFrame:
        """How much better each method is than one of them, on the same texts.

        Args:
            reference: Name of the method that the others are held against.

        Returns:
            One row for each data set and other method, with the interval of the difference over
            documents; and one for all data sets together, called "all", with that over data sets.

        Raises:
            ConfigError: If there is no such method.
        """
        if reference not in self.methods:
            raise ConfigError(
                f"There is no method {reference!r}. {closest(reference, self.methods)}"
                f"Pass one of: {', '.join(self.methods)}."
            )
        accuracies = {(one.data_set, one.method): one.accuracy for one in self.results}
        rows: list[dict[str, object]] = []
        for method in self.methods:
            if method == reference:
                continue
            of_method: list[tuple[str, Estimate]] = []
            for (data_set, other), accuracy in accuracies.items():
                if other == method:
                    difference = accuracy.less(accuracies[data_set, reference])
                    of_method.append((data_set, difference))
            of_method.append(("all", _mean([float(value) for _, value in of_method])))
            for data_set, value in of_method:
                row: dict[str, object] = {"data_set": data_set, "method": method}
                row |= {"difference": float(value), "low": value.low, "high": value.high}
                rows.append(row)
        return pd.DataFrame(rows)

    def plot(self) -> go.Figure:
        """Accuracy of every method on each data set, below the mean over data sets."""
        return plot_probing(self.frame(), self.summary(), reference=RAW, chance=MAJORITY)

    def headline(self) -> str:
        """The mean accuracy of each method."""
        n_sets = len({one.data_set for one in self.results})
        rows = self.summary().to_dict("records")
        means = ", ".join(f"{row['method']} {row['accuracy']:.3f}" for row in rows)
        return f"accuracy on {n_sets} data set{'s' if n_sets != 1 else ''}: {means}"

    def preview(self) -> pd.DataFrame:
        """The mean accuracy of each method."""
        return self.summary()


def probing(
    lenses: Lens | Mapping[str, Lens],
    data_sets: Sequence[str] | Mapping[str, tuple[Sequence[str], Sequence[Any]]] | None = None,
    *,
    train: Data | None = None,
    sentence: Sentence = "mean",
    n_texts: int = 500,
    n_folds: int | None = None,
    long_texts: Cut = "truncate",
    seed: int = 0,
    progress: bool = True,
) -> Probing:
    """Fits linear probes that tell classes of texts, on codes and on the activations they are of.

    Every method has the same texts, folds and probes: logistic regression, whose penalty is chosen
    inside the training part. Codes of a text are the share of its tokens that has each code, and
    activations the mean over its tokens, so that both know as little about their order. The model
    reads every text once, up to the deepest source.

    Args:
        lenses: A fitted lens, or several of one model by name; the first has the baselines.
        data_sets: Names of data sets that the package sae-probes carries (arXiv 2502.16681), such
            as "5_hist_fig_ismale"; None: its 113 with two classes. Or data of your own:
            ``{name: (texts, classes)}``.
        train: What the first lens was fitted on, to add k-means with as many codes.
        sentence: How a text becomes one vector: "mean", or the code and the activation at its
            "last" real token.
        n_texts: Texts of each data set, at most, drawn at random.
        n_folds: Folds of the cross-validation; None: five, or fewer if a class is rare.
        long_texts: What to do with a text beyond the context: "truncate" it, or raise an "error".
        seed: Random seed for texts and folds.
        progress: Whether to show progress bars.

    Raises:
        MissingDependencyError: If sae-probes is needed and not installed.
        ConfigError: If it has no such data set, or an option has an impossible value.
        DataError: If a class has too few documents, or data are no texts and classes.
        HostMismatchError: If the lenses are on several models.
        NotFittedError: If a lens has not been fitted.

    Example:
        >>> probing(lens, ["5_hist_fig_ismale"], train=texts).summary()  # doctest: +SKIP
    """
    check_count("n_texts", n_texts)
    check_seed(seed)
    check_choice("sentence", sentence, [each for each in get_args(Sentence) if each != "cls"])
    check_long_texts(long_texts, splittable=False)
    named = named_lenses(lenses, taken=[K_MEANS, RAW, MAJORITY])
    methods = _Methods(named, sentence, long_texts, n_folds=n_folds, seed=seed)
    chosen = list(probing_data_sets(data_sets, n_texts=n_texts, seed=seed))
    results: list[Probed] = []
    with _with_k_means(methods.lenses, train, progress=progress):
        n_texts_in_all = sum(len(texts) for _, (texts, _) in chosen)
        with tqdm(total=n_texts_in_all, desc="probing", unit="text", disable=not progress) as bar:
            for name, (texts, classes) in chosen:
                bar.set_postfix_str(name)
                results += methods.probed(name, ClassifiedTexts.of(texts, classes, None), bar)
    return Probing(tuple(results))


@contextmanager
def _with_k_means(lenses: dict[str, Lens], train: Data | None, *, progress: bool) -> Iterator[None]:
    """While open, k-means is one of the lenses, if there is anything to fit it on."""
    if train is None:
        yield
        return
    first = next(iter(lenses.values()))
    baseline = first.baseline(K_MEANS, train, progress=progress)
    try:
        lenses[K_MEANS] = baseline
        yield
    finally:
        baseline.remove()


class _Methods:
    """Reads the texts of a data set, and probes what each method makes of them."""

    def __init__(
        self,
        lenses: Mapping[str, Lens],
        sentence: Sentence,
        long_texts: Cut,
        *,
        n_folds: int | None,
        seed: int,
    ) -> None:
        self.lenses = dict(lenses)
        first = next(iter(self.lenses.values()))
        self._host = first.host
        for lens in self.lenses.values():
            ready(lens)
            if lens.model is not first.model:
                raise HostMismatchError(
                    "The lenses are on several models. Pass lenses of one, whose activations are "
                    "probed beside them."
                )
        self._sentence: Sentence = sentence
        self._long_texts: Cut = long_texts
        self._n_folds, self._seed = n_folds, seed

    def probed(self, name: str, texts: ClassifiedTexts, bar: tqdm) -> list[Probed]:
        """How well every method does on one data set."""
        tokens = TokenizedTexts(self._host, texts.texts, self._long_texts)
        read = read_probed(self.lenses, tokens, self._sentence, bar)
        right: dict[str, np.ndarray] = {}
        for method, shares in read.codes.items():
            right[method] = self._right(shares, texts)
        right[RAW] = self._right(read.activations, texts)
        right[MAJORITY] = texts.classes == texts.shares.argmax()
        results: list[Probed] = []
        for method, is_right in right.items():
            result = Probed(
                data_set=name,
                method=method,
                n_texts=len(texts),
                n_classes=len(texts.class_names),
                accuracy=_accuracy(is_right, texts),
            )
            results.append(result)
        return results

    def _right(
        self, vectors: Float[np.ndarray, "n d"], texts: ClassifiedTexts
    ) -> Bool[np.ndarray, " n"]:
        """Whether a probe names the class of each text, which it has not seen."""
        folds = make_folds(texts, "honest", n_folds=self._n_folds, seed=self._seed)
        is_right = np.zeros(len(texts), dtype=bool)
        probes = linear_probes(vectors, texts, folds, seed=self._seed)
        for (_, test), probe in zip(folds, probes, strict=True):
            predicted = probe.probabilities(vectors[test]).argmax(1)
            is_right[test] = predicted == texts.classes[test]
        return is_right


def _accuracy(is_right: Bool[np.ndarray, " n"], texts: ClassifiedTexts) -> DocumentEstimate:
    sums = JackknifeSums()
    sums.add(texts.documents.tolist(), {"right": is_right, "texts": np.ones(len(texts))})
    return sums.estimate(_share_right, size="texts", limits=(0.0, 1.0))


def _share_right(sums: Sums) -> np.ndarray:
    return sums["right"] / sums["texts"]


def _mean(values: Sequence[float]) -> Estimate:
    """The mean over data sets, with its interval; that of one data set is NaN."""
    n = len(values)
    error = float(np.std(values, ddof=1)) / n**0.5 if n > 1 else float("nan")
    return Measured(float(np.mean(values)), error, float(n - 1)).estimate(limits=(-1.0, 1.0))
