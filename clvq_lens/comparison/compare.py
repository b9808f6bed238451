"""Several quantizers and baselines on the same held-out texts, by every measure there is."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import pandas as pd

from clvq_lens.arguments import as_list, check_count, check_flags, check_seed, closest
from clvq_lens.comparison.comparison import Comparison
from clvq_lens.comparison.comparison_identity import comparison_identity, comparison_settings
from clvq_lens.comparison.contestants import Contestant, Fitting, Method, Texts
from clvq_lens.comparison.described import NO_DECODER, UNQUANTIZED
from clvq_lens.comparison.finished import WORK, FinishedWork
from clvq_lens.comparison.measurement import JUDGING, Measurement
from clvq_lens.config import DecoderName, FitConfig
from clvq_lens.data.store.stored_activations import StoredActivations
from clvq_lens.data.token_labels import TokenLabels, listed
from clvq_lens.data.tokens import check_long_texts
from clvq_lens.errors import ConfigError
from clvq_lens.faithfulness.classified_texts import ClassifiedTexts
from clvq_lens.faithfulness.faithfulness import Faithfulness
from clvq_lens.faithfulness.protocols import JudgingOptions, check_judging
from clvq_lens.lens import Lens
from clvq_lens.readouts.salience import Cut
from clvq_lens.training.checkpoint import check_resume, held
from clvq_lens.writing import check_file, make_folder


def compare(
    methods: Sequence[Method],
    texts: Texts,
    classes: Iterable[object] | None = None,
    *,
    train: Texts | None = None,
    decoders: Sequence[DecoderName] | None = None,
    bounds: bool = True,
    n_seeds: int = 1,
    config: FitConfig | None = None,
    token_labels: TokenLabels | None = None,
    keep: str | Path | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    long_texts: Cut = "error",
    seed: int = 0,
    progress: bool = True,
    **options: Unpack[JudgingOptions],
) -> Comparison:
    """Measures quantizers and baselines on the same held-out texts, with the same decoders.

    Args:
        methods: Fitted lenses, and names of baselines such as "k-means" (see
            `clvq_lens.Lens.baseline`), which are matched to the first lens. The model is as it was
            afterwards.
        texts: Held-out texts, or rows of tokens; or a store of their activations.
        classes: The class of each text, to add faithfulness.
        train: Texts that the lenses were fitted on, or a store of their activations; baselines,
            further fits and other decoders need them.
        decoders: Every method is measured with each of these: its codes stay what they are, and
            the decoder is trained as that of a lens is. None: that of the first lens.
        bounds: Whether to add what no method can get beyond or should fall behind: k-means of the
            target, random codes, and the prediction of the target before it is quantized. Needs
            ``train``, but for the prediction of a predictive lens.
        n_seeds: Fits of each method; more than one adds stability. An SAE from elsewhere has one.
        config: How further fits and baselines are fitted; None: as the first lens was fitted, with
            as many tokens.
        token_labels: A known label of every real token, to add agreement with them.
        keep: A .json file that takes what each method gave as soon as it is measured. Called again
            after an interruption, only methods that it lacks are measured; lenses are known by
            their names, and the readout is not looked at.
        checkpoint: Folder that takes every fit, and what was measured of it, the moment it is done.
            A comparison that was killed goes on with what is missing, and ends with the same
            bits. A fit that was interrupted goes on from its last checkpoint where ``train`` is a
            store, and else begins again. The readout is not looked at.
        resume: Whether to go on with what is in that folder.
        long_texts: What to do with a text beyond the context.
        seed: Random seed for controls and folds.
        progress: Whether to show progress bars.
        **options: Options of `clvq_lens.Lens.faithfulness`, such as ``documents`` and ``readout``,
            but for its protocol: both are measured. A readout also adds the KL of what it says.

    Raises:
        ConfigError: If no lens is given, a baseline or further fits without ``train``, two methods
            have one name, there is no such baseline, decoder or option, or the file keeps what
            other settings gave.
        DataError: If classes or labels do not fit the texts.
        FileFormatError: If the file is not one of ours, or what is in the folder is damaged.
        CheckpointError: If there is nothing to go on with, or it is of another comparison.
        PathTakenError: If the folder holds a comparison, and ``resume`` is off.
        TerminatedError: If SIGTERM comes, with ``checkpoint``.

    Example:
        >>> compare([lens, "k-means"], held_out, classes, train=texts).frame()  # doctest: +SKIP
    """
    check_count("n_seeds", n_seeds)
    check_seed(seed)
    check_flags(bounds=bounds, resume=resume)
    check_resume(checkpoint, resume=resume, work=WORK)
    _check_options(options)
    texts = as_list("The texts", texts, "Pass a list of strings.")  # read several times
    if train is not None and not isinstance(train, StoredActivations):
        train = as_list("train", train, "Pass a list of texts, or a store.")
    token_labels = None if token_labels is None else listed(token_labels)
    check_long_texts(long_texts, splittable=classes is None)  # faithfulness is of whole texts
    documents = options.pop("documents", None)
    if documents is not None:
        documents = as_list("The documents", documents, "Pass one for each text.")
    classified: ClassifiedTexts | None = None
    if classes is not None:
        classes = as_list("The classes", classes, "Pass one for each text.")
        classified = ClassifiedTexts.of(texts, classes, documents)
    fitting = Fitting.of(methods, decoders, train, n_seeds, config, progress=progress)
    contestants = fitting.contestants(methods, bounds=bounds)
    data = {"texts": texts, "classes": classes, "train": train, "token_labels": token_labels}
    data["documents"] = documents
    numbers = {"n_seeds": n_seeds, "long_texts": long_texts, "seed": seed}
    settings = comparison_settings(data, numbers, fitting.config, options)
    empty = Comparison(pd.DataFrame(), n_seeds, len(texts), {}, settings)
    done = _done(keep, empty)
    identity = partial(comparison_identity, fitting, contestants, settings, bounds=bounds)
    with held(checkpoint):
        finished = FinishedWork(checkpoint, identity, empty, resume=resume)
        measurement = Measurement(
            *(texts, classified, token_labels, long_texts, seed, progress, options),
            finished.ablation_costs,
        )
        run = _MethodByMethod(fitting, measurement, finished, bounds=bounds)
        with finished.ended_by_termination():
            for measured in run.measured(contestants, done):
                done = measured
                if keep is not None:
                    done.save(keep)
    rows = [(one.name, decoder) for one in contestants for decoder in fitting.decoders]
    return done.only([*rows, (UNQUANTIZED, NO_DECODER)] if bounds else rows)


class _MethodByMethod:
    """Fits and measures one method after the other.

    Args:
        fitting: How methods are fitted.
        measurement: What is measured of a fit.
        finished: What need not be done again.
        bounds: Whether rows for predictions that are not quantized are wanted.
    """

    def __init__(
        self, fitting: Fitting, measurement: Measurement, finished: FinishedWork, *, bounds: bool
    ) -> None:
        self._fitting, self._measurement, self._finished = fitting, measurement, finished
        self._bounds = bounds

    def measured(self, contestants: Sequence[Contestant], done: Comparison) -> Iterator[Comparison]:
        """What is done, with one row after the other that it lacks."""
        for contestant in contestants:
            missing: list[DecoderName] = list(self._fitting.decoders)
            for decoder in self._fitting.decoders:
                if (contestant.name, decoder) in done.rows:
                    missing.remove(decoder)
            if not missing:
                continue
            with self._fitting.fits(contestant, self._finished) as fits:
                for decoder in missing:
                    table, judged = self._of_method(contestant, fits, decoder)
                    if not self._lacks_prediction(done):
                        table = table[table["method"] != UNQUANTIZED]
                    done = done.with_rows(contestant.name, decoder, pd.DataFrame(table), judged)
                    yield done
        if self._lacks_prediction(done) and self._fitting.train is not None:
            with self._fitting.predictive_fits(self._finished) as fits:
                prediction = self._of_prediction(fits)
            yield done.with_rows(UNQUANTIZED, NO_DECODER, prediction, None)

    def _lacks_prediction(self, done: Comparison) -> bool:
        """Whether rows for predictions that are not quantized are still wanted."""
        return self._bounds and (UNQUANTIZED, NO_DECODER) not in done.rows

    def _of_method(
        self, contestant: Contestant, fits: Sequence[Lens], decoder: DecoderName
    ) -> tuple[pd.DataFrame, Faithfulness | None]:
        """The rows of a method with one decoder, and the faithfulness of its first fit."""
        names = (contestant.name, decoder)
        tables: list[pd.DataFrame] = []
        first: Faithfulness | None = None
        measurement = self._measurement
        with self._fitting.decoded(contestant, fits, decoder, self._finished) as lenses:
            for number, lens in enumerate(lenses):
                measure = partial(measurement.of_fit, *names, number, lens)
                table, judged = self._finished.measured([*names, f"fit {number}"], measure)
                tables.append(table)
                first = first or judged
            if len(lenses) > 1:
                measure = partial(measurement.of_all_fits, *names, lenses)
                table, _ = self._finished.measured([*names, "all fits"], measure)
                tables.append(table)
        return pd.concat(tables, ignore_index=True), first

    def _of_prediction(self, fits: Sequence[Lens]) -> pd.DataFrame:
        """The rows for predictions that are not quantized, of lenses fitted for them alone."""
        tables: list[pd.DataFrame] = []
        for number, lens in enumerate(fits):
            measure = partial(self._measurement.of_prediction, number, lens)
            names = [UNQUANTIZED, NO_DECODER, f"fit {number}"]
            table, _ = self._finished.measured(names, measure)
            tables.append(table)
        return pd.concat(tables, ignore_index=True)


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
    check_judging(**{name: options[name] for name in JUDGING if name in options})


# ---- what has been measured already --------------------------------------------------------------


def _done(keep: str | Path | None, empty: Comparison) -> Comparison:
    """What has been measured already, with the same settings."""
    if keep is not None:
        make_folder(Path(keep).parent)
        check_file(keep)  # before anything takes long
    if keep is None or not Path(keep).exists():
        return empty
    done = Comparison.load(keep)
    differing = []
    for name in {**empty.settings, **done.settings}:
        if empty.settings.get(name) != done.settings.get(name):
            differing.append(name)
    if differing:
        raise ConfigError(
            f"{keep} keeps a comparison with other {', '.join(differing)}. Pass the same as then, "
            f"or another file."
        )
    return done
