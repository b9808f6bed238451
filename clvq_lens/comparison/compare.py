"""Several quantizers and baselines on the same held-out texts, by every measure there is."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clvq_lens.arguments import as_list, check_count, check_is, check_seed
from clvq_lens.baselines.choice import check_kind
from clvq_lens.comparison.refits import refits
from clvq_lens.comparison.result import Comparison
from clvq_lens.comparison.stability import stability
from clvq_lens.config import FitConfig
from clvq_lens.errors import ConfigError
from clvq_lens.evaluation.agreement import agreement
from clvq_lens.evaluation.labels import DocumentLabels, TokenLabels, listed
from clvq_lens.evaluation.partitions import contingency
from clvq_lens.faithfulness.case import Case, prepare
from clvq_lens.faithfulness.folds import Protocol
from clvq_lens.faithfulness.protocols import JUDGING, check_judging, judge
from clvq_lens.faithfulness.reading import LabelledTexts
from clvq_lens.faithfulness.result import Faithfulness
from clvq_lens.interventions.salience import Cut
from clvq_lens.lens import Lens
from clvq_lens.training.tokens import check_long_texts
from clvq_lens.writing import check_file, make_folder

Method = Lens | str


def compare(
    methods: Sequence[Method],
    texts: Sequence[str],
    labels: Iterable[Any] | None = None,
    *,
    train: Sequence[str] | None = None,
    n_seeds: int = 1,
    fit: FitConfig | None = None,
    token_labels: TokenLabels | None = None,
    keep: str | Path | None = None,
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
        fit: How further fits and baselines are fitted; None: as the first lens was fitted, with as
            many tokens.
        token_labels: A known label of every real token, to add agreement with them.
        keep: A .json file that takes what each method gave as soon as it is measured. Called again
            after an interruption, only methods that it lacks are measured; lenses are known by
            their names, and the readout is not looked at.
        long_texts: What to do with a text beyond the context.
        seed: Of bootstrap, controls and folds.
        progress: Whether to show progress bars.
        **options: Of `clvq_lens.Lens.faithfulness`, such as ``documents`` and ``readout``.

    Raises:
        ConfigError: If no lens is given, a baseline or further fits without ``train``, two methods
            have one name, there is no such baseline, or the file keeps what other settings gave.
        DataError: If labels do not fit the texts.
        FileFormatError: If the file is not one of ours.

    Example:
        >>> compare([lens, "k-means"], held_out, labels, train=texts).frame()  # doctest: +SKIP
    """
    check_count("n_seeds", n_seeds)
    check_seed(seed)
    check_judging(**{name: options[name] for name in JUDGING if name in options})
    check_is("fit", fit, FitConfig | None, "Pass a FitConfig.")
    texts = as_list("The texts", texts, "Pass a list of strings.")  # read several times
    train = None if train is None else as_list("train", train, "Pass a list of texts.")
    token_labels = None if token_labels is None else listed(token_labels)
    names = _names(methods, train, n_seeds)
    reference = next(method for method in methods if isinstance(method, Lens))
    labels = None if labels is None else as_list("The labels", labels, "Pass one for each text.")
    if labels is not None:
        LabelledTexts.of(texts, labels, None)  # refuses wrong ones before anything takes long
    check_long_texts(long_texts, splittable=labels is None)  # faithfulness is of whole texts
    if options.get("documents") is not None:
        remedy = "Pass one for each text."
        options["documents"] = as_list("The documents", options["documents"], remedy)
    data = {"texts": texts, "labels": labels, "train": train, "token_labels": token_labels}
    numbers = {"n_seeds": n_seeds, "long_texts": long_texts, "seed": seed}
    fit = fit or reference.quantizer.fit_config or FitConfig()
    settings = _settings(data, numbers, fit, options)
    done = _done(keep, settings, n_seeds, len(texts))
    measure = _Measure(texts, labels, token_labels, long_texts, seed, progress, options)
    for method, name in zip(methods, names, strict=True):
        if name in done.methods:
            continue
        with _fits(method, reference, train, n_seeds, fit, progress) as fits:
            done = done.with_method(name, *measure.of_all(name, fits))
        if keep is not None:
            done.save(keep)
    return done.only(names)


def _names(methods: Sequence[Method], train: Sequence[str] | None, n_seeds: int) -> list[str]:
    """The name of each method; what cannot be compared is refused before anything takes long."""
    for method in methods:
        check_is("One of the methods", method, Lens | str, "Pass lenses and names of baselines.")
    names = [method if isinstance(method, str) else method.name for method in methods]
    kinds = [method for method in methods if isinstance(method, str)]
    if len(kinds) == len(methods):
        raise ConfigError(
            "There is no lens among the methods. Pass [lens, 'k-means', ...]: baselines are "
            "matched to the first lens."
        )
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(
                f"Two methods are called {name!r}. Pass each once, or name lenses apart with "
                f"add_clvq(..., name=...)."
            )
    if train is None and (n_seeds > 1 or kinds):
        raise ConfigError(
            "Baselines and further fits need the texts that the lens was fitted on. "
            "Pass train=texts."
        )
    for kind in kinds:
        check_kind(kind)
    return names


def _settings(
    data: Mapping[str, Any],
    numbers: Mapping[str, Any],
    fit: FitConfig,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """All that results depend on but lenses and readout; of data a digest."""
    data = {**data, "documents": options.get("documents")}
    return {
        **{name: _digest(value) for name, value in data.items()},
        **numbers,
        **{k: v for k, v in options.items() if isinstance(v, str | int | float | bool)},
        **{f"fit.{name}": value for name, value in dataclasses.asdict(fit).items()},
    }


def _digest(value: Any) -> str | None:
    if value is None:
        return None
    return hashlib.blake2b(json.dumps(value, default=_plain).encode(), digest_size=8).hexdigest()


def _plain(value: Any) -> Any:
    """Numbers and arrays as JSON can hold them; a long array as a string would lack its middle."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _done(
    keep: str | Path | None, settings: Mapping[str, Any], n_seeds: int, n_texts: int
) -> Comparison:
    """What has been measured already, with the same settings."""
    if keep is not None:
        make_folder(Path(keep).parent)
        check_file(keep)  # before anything takes long
    if keep is None or not Path(keep).exists():
        return Comparison(pd.DataFrame(), n_seeds, n_texts, {}, settings)
    done = Comparison.load(keep)
    names = [*settings, *(name for name in done.settings if name not in settings)]
    other = [name for name in names if settings.get(name) != done.settings.get(name)]
    if other:
        raise ConfigError(
            f"{keep} keeps a comparison with other {', '.join(other)}. Pass the same as then, or "
            f"another file."
        )
    return done


@contextmanager
def _fits(
    method: Method,
    reference: Lens,
    train: Sequence[str] | None,
    n_seeds: int,
    fit: FitConfig,
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

    def of_all(self, name: str, fits: list[Lens]) -> tuple[pd.DataFrame, Faithfulness | None]:
        """All metrics of all fits of a method, and faithfulness of the first."""
        rows: list[dict[str, Any]] = []
        judged: list[Faithfulness | None] = []
        for number, lens in enumerate(fits):
            found, values = self.of(lens)
            judged.append(found)
            rows += _rows(name, number, values)
        if len(fits) > 1:
            options = {"long_texts": self._long_texts, "seed": self._seed}
            agreed = stability({name: fits}, self._texts, **options)
            rows += _rows(name, -1, {"stability": agreed.ami[name]})
        return pd.DataFrame(rows), judged[0]

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
        lengths = encoding.real.sum(1).tolist()
        pairs = zip(encoding.documents, lengths, strict=True)
        names = [name for document, n in pairs for name in given.of(document, n)]
        kinds, labels = np.unique(np.array(names), return_inverse=True)
        codes = encoding.codes[encoding.real].numpy()
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
