"""Several quantizers and baselines on the same held-out texts, by every measure there is."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

import pandas as pd

from clvq_lens.arguments import as_list, check_count, check_flags, check_seed, closest
from clvq_lens.comparison.comparison import Comparison
from clvq_lens.comparison.contestants import Contestant, Fitting, Method
from clvq_lens.comparison.described import UNQUANTIZED
from clvq_lens.comparison.measurement import JUDGING, NO_DECODER, Measurement
from clvq_lens.config import DecoderName, FitConfig
from clvq_lens.data.token_labels import TokenLabels, listed
from clvq_lens.data.tokens import check_long_texts
from clvq_lens.errors import ConfigError
from clvq_lens.faithfulness.classified_texts import ClassifiedTexts
from clvq_lens.faithfulness.protocols import JudgingOptions, check_judging
from clvq_lens.readouts.salience import Cut
from clvq_lens.writing import check_file, make_folder


def compare(
    methods: Sequence[Method],
    texts: Sequence[str],
    classes: Iterable[object] | None = None,
    *,
    train: Sequence[str] | None = None,
    decoders: Sequence[DecoderName] | None = None,
    bounds: bool = True,
    n_seeds: int = 1,
    config: FitConfig | None = None,
    token_labels: TokenLabels | None = None,
    keep: str | Path | None = None,
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
        texts: Held-out texts.
        classes: The class of each text, to add faithfulness.
        train: Texts that the lenses were fitted on; baselines, further fits and other decoders need
            them.
        decoders: Every method is measured with each of these: its codes stay what they are, and
            the decoder is trained as that of a lens is. None: that of the first lens.
        bounds: Whether to add what no method can get beyond or should fall behind: k-means of the
            target, random codes, and the prediction of the target before it is quantized. Needs
            ``train``, but for the prediction of a predictive lens.
        n_seeds: Fits of each method; more than one adds stability.
        config: How further fits and baselines are fitted; None: as the first lens was fitted, with
            as many tokens.
        token_labels: A known label of every real token, to add agreement with them.
        keep: A .json file that takes what each method gave as soon as it is measured. Called again
            after an interruption, only methods that it lacks are measured; lenses are known by
            their names, and the readout is not looked at.
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
        FileFormatError: If the file is not one of ours.

    Example:
        >>> compare([lens, "k-means"], held_out, classes, train=texts).frame()  # doctest: +SKIP
    """
    check_count("n_seeds", n_seeds)
    check_seed(seed)
    check_flags(bounds=bounds)
    _check_options(options)
    texts = as_list("The texts", texts, "Pass a list of strings.")  # read several times
    train = None if train is None else as_list("train", train, "Pass a list of texts.")
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
    settings = _settings(data, numbers, fitting.config, options)
    done = _done(keep, settings, n_seeds, len(texts))
    measurement = Measurement(texts, classified, token_labels, long_texts, seed, progress, options)
    for measured in _measured(contestants, fitting, measurement, done, bounds=bounds):
        done = measured
        if keep is not None:
            done.save(keep)
    rows = [(one.name, decoder) for one in contestants for decoder in fitting.decoders]
    return done.only([*rows, (UNQUANTIZED, NO_DECODER)] if bounds else rows)


def _measured(
    contestants: Sequence[Contestant],
    fitting: Fitting,
    measurement: Measurement,
    done: Comparison,
    *,
    bounds: bool,
) -> Iterator[Comparison]:
    """What is done, with one row after the other that it lacks."""
    for contestant in contestants:
        missing: list[DecoderName] = list(fitting.decoders)
        for decoder in fitting.decoders:
            if (contestant.name, decoder) in done.rows:
                missing.remove(decoder)
        if not missing:
            continue
        with fitting.fits(contestant) as fits:
            for decoder in missing:
                with_prediction = bounds and (UNQUANTIZED, NO_DECODER) not in done.rows
                with fitting.decoded(fits, decoder) as lenses:
                    found = measurement.of_method(
                        contestant.name, decoder, lenses, with_prediction=with_prediction
                    )
                done = done.with_rows(contestant.name, decoder, *found)
                yield done
    if bounds and fitting.train is not None and (UNQUANTIZED, NO_DECODER) not in done.rows:
        with fitting.predictive_fits() as fits:
            prediction = measurement.of_prediction(fits)
        yield done.with_rows(UNQUANTIZED, NO_DECODER, prediction, None)


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
