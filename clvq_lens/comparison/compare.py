"""Several quantizers and baselines on the same held-out texts, by every measure there is."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Unpack, cast

import numpy as np
import pandas as pd

from clvq_lens.arguments import as_list, check_count, check_is, check_seed, closest
from clvq_lens.baselines.kinds import Baseline, check_kind
from clvq_lens.comparison.comparison import Comparison
from clvq_lens.comparison.refits import refits
from clvq_lens.comparison.shared_tokens import SharedTokens
from clvq_lens.comparison.stability import stability
from clvq_lens.config import FitConfig, fit_config
from clvq_lens.data.token_labels import TokenLabels, listed
from clvq_lens.data.tokens import check_long_texts
from clvq_lens.errors import ConfigError
from clvq_lens.faithfulness.case import Case, CaseOptions, prepare
from clvq_lens.faithfulness.classified_texts import ClassifiedTexts
from clvq_lens.faithfulness.faithfulness import Faithfulness
from clvq_lens.faithfulness.folds import ProtocolName
from clvq_lens.faithfulness.protocols import JudgingOptions, check_judging, judge
from clvq_lens.lens import Lens
from clvq_lens.readouts.salience import Cut
from clvq_lens.stats.agreement import agreement
from clvq_lens.stats.contingency import contingency
from clvq_lens.writing import check_file, make_folder

Method = Lens | str
_OF_EVALUATION = ("fvu", "ce_loss_recovered", "perplexity", "n_dead_codes")
_JUDGING = ("n_draws", "n_model_draws", "n_replicates")  # options of `judge`, not of `prepare`


def compare(
    methods: Sequence[Method],
    texts: Sequence[str],
    classes: Iterable[object] | None = None,
    *,
    train: Sequence[str] | None = None,
    n_seeds: int = 1,
    config: FitConfig | None = None,
    token_labels: TokenLabels | None = None,
    keep: str | Path | None = None,
    long_texts: Cut = "error",
    seed: int = 0,
    progress: bool = True,
    **options: Unpack[JudgingOptions],
) -> Comparison:
    """Measures quantizers and baselines on the same held-out texts.

    Args:
        methods: Fitted lenses, and names of baselines such as "k-means" (see
            `clvq_lens.Lens.baseline`), which are matched to the first lens. The model is as it was
            afterwards.
        texts: Held-out texts.
        classes: The class of each text, to add faithfulness.
        train: Texts that the lenses were fitted on; baselines and further fits need them.
        n_seeds: Fits of each method; more than one adds stability.
        config: How further fits and baselines are fitted; None: as the first lens was fitted, with
            as many tokens.
        token_labels: A known label of every real token, to add agreement with them.
        keep: A .json file that takes what each method gave as soon as it is measured. Called again
            after an interruption, only methods that it lacks are measured; lenses are known by
            their names, and the readout is not looked at.
        long_texts: What to do with a text beyond the context.
        seed: Random seed for bootstrap, controls and folds.
        progress: Whether to show progress bars.
        **options: Options of `clvq_lens.Lens.faithfulness`, such as ``documents`` and ``readout``,
            but for its protocol: both are measured.

    Raises:
        ConfigError: If no lens is given, a baseline or further fits without ``train``, two methods
            have one name, there is no such baseline or option, or the file keeps what other
            settings gave.
        DataError: If classes or labels do not fit the texts.
        FileFormatError: If the file is not one of ours.

    Example:
        >>> compare([lens, "k-means"], held_out, classes, train=texts).frame()  # doctest: +SKIP
    """
    check_count("n_seeds", n_seeds)
    check_seed(seed)
    _check_options(options)
    texts = as_list("The texts", texts, "Pass a list of strings.")  # read several times
    train = None if train is None else as_list("train", train, "Pass a list of texts.")
    token_labels = None if token_labels is None else listed(token_labels)
    names = _names(methods, train, n_seeds)
    reference = next(method for method in methods if isinstance(method, Lens))
    config = fit_config(config, reference.quantizer.fit_config)
    check_long_texts(long_texts, splittable=classes is None)  # faithfulness is of whole texts
    documents = options.pop("documents", None)
    if documents is not None:
        documents = as_list("The documents", documents, "Pass one for each text.")
    classified: ClassifiedTexts | None = None
    if classes is not None:
        classes = as_list("The classes", classes, "Pass one for each text.")
        classified = ClassifiedTexts.of(texts, classes, documents)
    data = {"texts": texts, "classes": classes, "train": train, "token_labels": token_labels}
    data["documents"] = documents
    numbers = {"n_seeds": n_seeds, "long_texts": long_texts, "seed": seed}
    settings = _settings(data, numbers, config, options)
    done = _done(keep, settings, n_seeds, len(texts))
    measurement = _Measurement(texts, classified, token_labels, long_texts, seed, progress, options)
    for method, name in zip(methods, names, strict=True):
        if name in done.methods:
            continue
        with _fits(method, reference, train, n_seeds, config, progress) as fits:
            done = done.with_method(name, *measurement.of_method(name, fits))
        if keep is not None:
            done.save(keep)
    return done.only(names)


def _check_options(options: Mapping[str, Any]) -> None:
    """Raises `ConfigError` for options that nothing would read, or that have impossible values."""
    # Type checkers refuse other names, but Python passes them on.
    names = list(JudgingOptions.__annotations__)
    for name in options:
        if name not in names:
            raise ConfigError(
                f"compare has no option {name!r}. {closest(name, names)}Options of faithfulness: "
                f"{', '.join(names)}."
            )
    check_judging(**{name: options[name] for name in _JUDGING if name in options})


def _names(methods: Sequence[Method], train: Sequence[str] | None, n_seeds: int) -> list[str]:
    """The name of each method; what cannot be compared is refused before anything takes long."""
    names: list[str] = []
    kinds: list[str] = []
    for method in methods:
        check_is("One of the methods", method, Lens | str, "Pass lenses and names of baselines.")
        if isinstance(method, str):
            kinds.append(method)
        names.append(method if isinstance(method, str) else method.name)
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


# ---- what has been measured already --------------------------------------------------------------


def _settings(
    data: Mapping[str, object],
    numbers: Mapping[str, object],
    config: FitConfig,
    options: Mapping[str, Any],
) -> dict[str, object]:
    """All that results depend on but lenses and readout; of data a digest."""
    settings: dict[str, object] = {}
    for name, value in data.items():
        settings[name] = _digest(value)
    settings |= numbers
    for name, value in options.items():
        # A readout can neither be written down nor compared.
        if isinstance(value, str | int | float | bool):
            settings[name] = value
    for name, value in dataclasses.asdict(config).items():
        settings[f"config.{name}"] = value
    return settings


def _digest(value: object) -> str | None:
    if value is None:
        return None
    return hashlib.blake2b(json.dumps(value, default=_jsonable).encode(), digest_size=8).hexdigest()


def _jsonable(value: Any) -> object:
    """Numbers and arrays as JSON can hold them; a long array as a string would lack its middle."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _done(
    keep: str | Path | None, settings: Mapping[str, object], n_seeds: int, n_texts: int
) -> Comparison:
    """What has been measured already, with the same settings."""
    if keep is not None:
        make_folder(Path(keep).parent)
        check_file(keep)  # before anything takes long
    if keep is None or not Path(keep).exists():
        return Comparison(pd.DataFrame(), n_seeds, n_texts, {}, settings)
    done = Comparison.load(keep)
    differing = []
    for name in {**settings, **done.settings}:
        if settings.get(name) != done.settings.get(name):
            differing.append(name)
    if differing:
        raise ConfigError(
            f"{keep} keeps a comparison with other {', '.join(differing)}. Pass the same as then, "
            f"or another file."
        )
    return done


# ---- fits and what is measured of them -----------------------------------------------------------


@contextmanager
def _fits(
    method: Method,
    reference: Lens,
    train: Sequence[str] | None,
    n_seeds: int,
    config: FitConfig,
    progress: bool,
) -> Iterator[list[Lens]]:
    """A lens and further fits of it, or as many fits of a baseline; gone afterwards."""
    if isinstance(method, Lens):
        lens, kind, own = method, None, [method]
    else:
        lens, kind, own = reference, cast("Baseline", method), []  # `_names` has checked it
    n_more = n_seeds - len(own)
    if n_more == 0 or train is None:
        yield own
        return
    with refits(
        lens, list(train), seeds=n_more, kind=kind, config=config, progress=progress
    ) as more:
        yield [*own, *more]


class _Measurement:
    """Everything that is measured of one fit."""

    def __init__(
        self,
        texts: Sequence[str],
        classified: ClassifiedTexts | None,
        token_labels: TokenLabels | None,
        long_texts: Cut,
        seed: int,
        progress: bool,
        options: Mapping[str, Any],
    ) -> None:
        self._texts, self._classified = list(texts), classified
        self._token_labels = token_labels
        self._long_texts: Cut = long_texts
        self._seed, self._progress = seed, progress
        self._case_options: dict[str, Any] = {}
        self._judging_options: dict[str, Any] = {}
        for name, value in options.items():
            if name in _JUDGING:
                self._judging_options[name] = value
            else:
                self._case_options[name] = value
        self._cases: dict[tuple[str, ProtocolName], Case] = {}

    def of_method(self, name: str, fits: list[Lens]) -> tuple[pd.DataFrame, Faithfulness | None]:
        """All metrics of all fits of a method, and faithfulness of the first."""
        rows: list[dict[str, object]] = []
        first: Faithfulness | None = None
        for number, lens in enumerate(fits):
            judged, values = self.of_fit(lens)
            if number == 0:
                first = judged
            rows += _rows(name, number, values)
        if len(fits) > 1:
            agreement_of_fits = stability(
                {name: fits},
                self._texts,
                long_texts=self._long_texts,
                seed=self._seed,
                progress=self._progress,
            )
            # Of all fits together, not of one of them: so it has a number of its own.
            rows += _rows(name, -1, {"stability": agreement_of_fits.ami[name]})
        return pd.DataFrame(rows), first

    def of_fit(self, lens: Lens) -> tuple[Faithfulness | None, dict[str, float | None]]:
        """Faithfulness, if texts have classes, and all metrics."""
        evaluation = lens.evaluate(
            self._texts, long_texts=self._long_texts, seed=self._seed, progress=self._progress
        )
        values: dict[str, float | None] = {}
        for metric in _OF_EVALUATION:
            values[metric] = getattr(evaluation, metric)
        values |= self._agreement(lens)
        if self._classified is None:
            return None, values
        published = self._judged(lens, self._classified, "paper")
        honest = self._judged(lens, self._classified, "honest")
        return honest, values | _of_faithfulness(published, honest)

    def _judged(self, lens: Lens, texts: ClassifiedTexts, protocol: ProtocolName) -> Faithfulness:
        """By a case that is prepared once for all methods that read the same hook point."""
        key = lens.source, protocol
        if key not in self._cases:
            given = dict(self._case_options)
            if protocol == "paper":
                given.pop("n_folds", None)  # the published number of folds
            options = CaseOptions(
                protocol=protocol, long_texts=self._long_texts, seed=self._seed, **given
            )
            self._cases[key] = prepare(
                lens.host, lens.source, texts, options, progress=self._progress
            )
        return judge(
            self._cases[key],
            lens,
            **self._judging_options,
            seed=self._seed,
            progress=self._progress,
        )

    def _agreement(self, lens: Lens) -> dict[str, float]:
        """How well codes agree with known labels of the tokens; nothing without such labels."""
        if self._token_labels is None:
            return {}
        # Tokens of this lens alone: methods may be on models with different tokenizers.
        tokens = SharedTokens(self._texts, long_texts=self._long_texts)
        codes = tokens.codes(lens)
        kinds, labels = np.unique(np.array(tokens.labels(self._token_labels)), return_inverse=True)
        counts = contingency(codes, labels, shape=(lens.config.n_codes, len(kinds)))
        with_labels = agreement(counts, seed=self._seed)
        if with_labels is None:
            return {}
        return {"nmi": with_labels.nmi, "purity": with_labels.purity}


def _of_faithfulness(published: Faithfulness, honest: Faithfulness) -> dict[str, float]:
    """The numbers of both protocols that methods are compared by."""
    values: dict[str, float] = {
        "published_accuracy": published.value("probe", "", "unperturbed", "accuracy"),
        "published_removed": published.value("probe", "raw", "concept", "accuracy"),
        "retrained": honest.value("probe", "raw", "concept", "retrained"),
    }
    for metric, place, ablation in (
        ("probe_drop", "probe", "centered"),
        ("model_drop", "model", "centered"),
        ("code_drop", "model", "code"),
    ):
        values[metric] = honest.value(place, ablation, "concept", "drop")
        values[f"{metric}_specific"] = honest.least_contrast(place, ablation)
    return values


def _rows(method: str, number: int, values: Mapping[str, float | None]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for metric, value in values.items():
        if value is None:
            continue
        row: dict[str, object] = {"method": method, "fit": number, "metric": metric}
        row["value"] = float(value)
        # A number without an interval, such as the count of dead codes, is its own interval.
        row["low"] = getattr(value, "low", float(value))
        row["high"] = getattr(value, "high", float(value))
        rows.append(row)
    return rows
