"""Several quantizers and baselines on the same held-out texts, by every measure there is."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from clvq_lens.baselines.choice import check_kind
from clvq_lens.comparison.refits import refits
from clvq_lens.comparison.stability import stability
from clvq_lens.config import FitConfig
from clvq_lens.errors import ConfigError
from clvq_lens.evaluation.agreement import agreement
from clvq_lens.evaluation.labels import DocumentLabels, TokenLabels
from clvq_lens.evaluation.partitions import contingency
from clvq_lens.faithfulness.case import Case, prepare
from clvq_lens.faithfulness.folds import Protocol
from clvq_lens.faithfulness.protocols import JUDGING, judge
from clvq_lens.faithfulness.result import Faithfulness
from clvq_lens.interventions.salience import Cut
from clvq_lens.lens import Lens
from clvq_lens.plots.methods import METRICS, plot_methods

Method = Lens | str


@dataclass(frozen=True)
class Comparison:
    """Methods side by side.

    Attributes:
        fits: One row for each method, fit and metric: value and 95 % interval over documents.
        n_seeds: Fits of each method.
        n_texts: Held-out texts.
        faithfulness: Of each method, for its first fit; empty without labels.
    """

    fits: pd.DataFrame
    n_seeds: int
    n_texts: int
    faithfulness: Mapping[str, Faithfulness]

    def frame(self) -> pd.DataFrame:
        """One row for each method; for each metric its mean over fits, and an interval.

        The interval reaches from the lowest lower end to the highest upper end among the fits, so
        it covers both documents and seeds.
        """
        groups = self.fits.groupby(["method", "metric"], sort=False)
        table = groups.agg(value=("value", "mean"), low=("low", "min"), high=("high", "max"))
        rows = []
        for method in self.fits["method"].unique():
            row: dict[str, Any] = {"method": method}
            for metric in METRICS:
                if (method, metric) in table.index:
                    value, low, high = table.loc[(method, metric)]
                    row |= {metric: value, f"{metric}_low": low, f"{metric}_high": high}
            rows.append(row)
        return pd.DataFrame(rows)

    def table(self) -> pd.DataFrame:
        """The same for reading: one column for each metric, its interval in brackets."""
        frame = self.frame()
        columns = {"method": frame["method"]}
        for metric, described in METRICS.items():
            if metric in frame:
                triples = zip(*(frame[metric + end] for end in ("", "_low", "_high")), strict=True)
                columns[described.title] = [_with_interval(*triple) for triple in triples]
        return pd.DataFrame(columns)

    def to_latex(self) -> str:
        """The table of `table` as LaTeX, with what data bring escaped; needs booktabs."""
        styled = self.table().style.hide(axis="index").format(escape="latex")
        styled = styled.format_index(escape="latex", axis="columns")
        return styled.to_latex(hrules=True)  # pyright: ignore[reportAttributeAccessIssue]

    def plot(self) -> go.Figure:
        """One panel for each metric, one line for each method, with intervals."""
        return plot_methods(self.frame())

    def __repr__(self) -> str:
        head = f"{self.n_texts:,} texts, {self.n_seeds} fits of each method"
        return f"{head}\n{self.table().to_string(index=False)}"

    def _repr_html_(self) -> str:
        return self.table().to_html(index=False)


def compare(
    methods: Sequence[Method],
    texts: Sequence[str],
    labels: Iterable[Any] | None = None,
    *,
    train: Sequence[str] | None = None,
    n_seeds: int = 1,
    fit: FitConfig | None = None,
    token_labels: TokenLabels | None = None,
    long_texts: Cut = "error",
    seed: int = 0,
    progress: bool = True,
    **options: Any,
) -> Comparison:
    """Measures quantizers and baselines on the same held-out texts.

    Args:
        methods: Fitted lenses, and names of baselines such as "k-means" (see
            `clvq_lens.Lens.baseline`), which are matched to the first lens. The model is as it was
            afterwards.
        texts: Held-out texts.
        labels: The class of each text, to add faithfulness.
        train: Texts that the lenses were fitted on; baselines and further fits need them.
        n_seeds: Fits of each method; more than one adds stability.
        fit: How further fits and baselines are fitted; None: the defaults.
        token_labels: A known label of every real token, to add agreement with them.
        long_texts: What to do with a text beyond the context.
        seed: Of bootstrap, controls and folds.
        progress: Whether to show progress bars.
        **options: Of `clvq_lens.Lens.faithfulness`, such as ``documents`` and ``readout``.

    Raises:
        ConfigError: If no lens is given, a baseline or further fits without ``train``, or there is
            no such baseline.
        DataError: If labels do not fit the texts.

    Example:
        >>> compare([lens, "k-means"], held_out, labels, train=texts).frame()  # doctest: +SKIP
    """
    lenses = [method for method in methods if isinstance(method, Lens)]
    if not lenses:
        raise ConfigError(
            "There is no lens among the methods. Pass [lens, 'k-means', ...]: baselines are "
            "matched to the first lens."
        )
    if train is None and (n_seeds > 1 or len(lenses) < len(methods)):
        raise ConfigError(
            "Baselines and further fits need the texts that the lens was fitted on. "
            "Pass train=texts."
        )
    for kind in (method for method in methods if isinstance(method, str)):
        check_kind(kind)  # before anything that takes long
    measure = _Measure(texts, labels, token_labels, long_texts, seed, progress, options)
    rows: list[dict[str, Any]] = []
    found: dict[str, Faithfulness] = {}
    for method in methods:
        name = method if isinstance(method, str) else method.name
        with _fits(method, lenses[0], train, n_seeds, fit, progress) as fits:
            for number, lens in enumerate(fits):
                judged, values = measure.of(lens)
                if judged is not None:
                    found.setdefault(name, judged)
                rows += _rows(name, number, values)
            if n_seeds > 1:
                agreed = stability({name: fits}, list(texts), long_texts=long_texts, seed=seed)
                rows += _rows(name, -1, {"stability": agreed.ami[name]})
    return Comparison(pd.DataFrame(rows), n_seeds, len(texts), found)


@contextmanager
def _fits(
    method: Method,
    reference: Lens,
    train: Sequence[str] | None,
    n_seeds: int,
    fit: FitConfig | None,
    progress: bool,
) -> Iterator[list[Lens]]:
    """A lens and further fits of it, or as many fits of a baseline; gone afterwards."""
    is_lens = isinstance(method, Lens)
    n_more = n_seeds - is_lens
    if n_more == 0 or train is None:
        yield [method] if isinstance(method, Lens) else []
        return
    kind = None if is_lens else method
    lens = method if isinstance(method, Lens) else reference
    with refits(lens, list(train), seeds=n_more, kind=kind, config=fit, progress=progress) as more:
        yield [*([lens] if is_lens else []), *more]


class _Measure:
    """Everything that is measured of one fit."""

    def __init__(
        self,
        texts: Sequence[str],
        labels: Iterable[Any] | None,
        token_labels: TokenLabels | None,
        long_texts: Cut,
        seed: int,
        progress: bool,
        options: Mapping[str, Any],
    ) -> None:
        self._texts, self._token_labels = list(texts), token_labels
        self._labels = None if labels is None else list(labels)
        self._long_texts: Cut = long_texts
        self._seed, self._progress, self._options = seed, progress, dict(options)
        self._judging = {name: self._options.pop(name) for name in JUDGING if name in options}
        self._cases: dict[tuple[str, Protocol], Case] = {}

    def of(self, lens: Lens) -> tuple[Faithfulness | None, dict[str, float]]:
        """Faithfulness, if texts have labels, and all metrics."""
        report = lens.evaluate(
            self._texts, long_texts=self._long_texts, seed=self._seed, progress=self._progress
        )
        names = ("fvu", "ce_loss_recovered", "perplexity", "n_dead_codes")
        values = {name: getattr(report, name) for name in names}
        values |= self._agreement(lens)
        if self._labels is None:
            return None, values
        published, honest = (self._judged(lens, protocol) for protocol in ("paper", "honest"))
        return honest, values | _of_faithfulness(published, honest)

    def _judged(self, lens: Lens, protocol: Protocol) -> Faithfulness:
        """By a case that is prepared once for all methods that read the same hook point."""
        key = lens.source, protocol
        if key not in self._cases:
            options = {**self._options, "long_texts": self._long_texts, "seed": self._seed}
            if protocol == "paper":
                options.pop("n_folds", None)  # its own number
            self._cases[key] = prepare(
                lens.host,
                lens.source,
                self._texts,
                self._labels or [],
                protocol=protocol,
                progress=self._progress,
                **options,
            )
        case, attachment = self._cases[key], lens.attachment
        return judge(case, attachment, **self._judging, seed=self._seed, progress=self._progress)

    def _agreement(self, lens: Lens) -> dict[str, float]:
        if self._token_labels is None:
            return {}
        encoding = lens.encode(self._texts, long_texts=self._long_texts)
        given = DocumentLabels(self._token_labels)
        lengths = encoding.mask.sum(1).tolist()
        pairs = zip(encoding.documents, lengths, strict=True)
        names = [name for document, n in pairs for name in given.of(document, n)]
        kinds, labels = np.unique(np.array(names), return_inverse=True)
        codes = encoding.codes[encoding.mask].numpy()
        counts = contingency(codes, labels, lens.config.n_codes, len(kinds))
        found = agreement(counts, seed=self._seed)
        return {} if found is None else {"nmi": found.nmi, "purity": found.purity}


def _of_faithfulness(published: Faithfulness, honest: Faithfulness) -> dict[str, float]:
    """The numbers of both protocols that methods are compared by."""
    values: dict[str, float] = {
        "published_accuracy": published.value("probe", "", "unperturbed", "accuracy"),
        "published_removed": published.value("probe", "raw", "concept", "accuracy"),
        "retrained": honest.value("probe", "raw", "concept", "retrained"),
    }
    for metric, place, ablation in (
        ("probe_drop", "probe", "centred"),
        ("model_drop", "model", "centred"),
        ("code_drop", "model", "code"),
    ):
        values[metric] = honest.value(place, ablation, "concept", "drop")
        values[f"{metric}_specific"] = honest.least_contrast(place, ablation)
    return values


def _rows(method: str, number: int, values: Mapping[str, float | None]) -> list[dict[str, Any]]:
    return [
        {
            **{"method": method, "fit": number, "metric": metric, "value": float(value)},
            "low": getattr(value, "low", float(value)),
            "high": getattr(value, "high", float(value)),
        }
        for metric, value in values.items()
        if value is not None
    ]


def _with_interval(value: float, low: float, high: float) -> str:
    if np.isnan(value):
        return ""
    digits = 0 if abs(value) >= 10 else 3
    number, *ends = (f"{round(x, digits) + 0.0:.{digits}f}" for x in (value, low, high))
    return number if low == high else f"{number} [{', '.join(ends)}]"
