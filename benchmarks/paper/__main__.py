"""The paper's comparison on equal terms: ``python -m benchmarks.paper [trial ...]``.

Codes of every method are measured with the same decoders, beside what codes could reach and what
chance gives; where texts have classes, the faithfulness of ours and of k-means by the published
protocol and the honest one. What a method gave is kept in ``benchmarks/results/paper/``; what is
there is not done again, so that an interrupted run goes on. ``--tables`` only writes the tables and
figures of what is there.
"""

import argparse
import dataclasses
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

import clvq_lens as cl
from benchmarks.paper import CLOSE, ENCODERS, comparison_page, data, trials
from benchmarks.paper.trials import Trial
from clvq_lens.config import DecoderName

N_SEEDS = 3
OTHERS = (
    "agglomerative",
    "single-layer VQ-VAE",
    "token identity",
    "sparse autoencoder",
    "transcoder",
    "random sparse autoencoder",
    "random transcoder",
)
METHODS = (*ENCODERS, *CLOSE, *OTHERS)
JUDGED = (*ENCODERS, "k-means")
DECODERS: tuple[DecoderName, ...] = ("table", "transformer")
# Fewer than by default: each draw is another pass of the model over all texts.
DRAWS = {"n_draws": 5, "n_model_draws": 1, "n_steps": 16}


def run(name: str) -> None:
    """Compares all methods in one trial; each is kept as soon as it is measured."""
    if _is_done(name):  # before a model is loaded or fine-tuned
        return
    trial = trials.load(name)
    with trial.reading:
        ours = [trials.fitted(trial, name, encoder) for encoder in ENCODERS]
        if name in trials.CODES:
            _compare_codes(trial, name, ours)
        if trial.classes is not None:
            _compare_faithfulness(trial, name, ours)
    if trial.accuracy is not None:
        comparison_page.keep_accuracy(name, trial.accuracy)


def _is_done(name: str) -> bool:
    codes_are_done = name not in trials.CODES or not _missing(_codes(name), METHODS)
    return codes_are_done and (name not in trials.CLASSES or not _missing(_judged(name), JUDGED))


def _compare_codes(trial: Trial, name: str, ours: Sequence[cl.Lens]) -> None:
    """Reconstruction and effect of all methods, those that come close first."""
    decoders_of_others = DECODERS if trial.trains_decoders else DECODERS[:1]
    readout = {key: value for key, value in trial.options.items() if key == "readout"}
    for methods, decoders in ((CLOSE, DECODERS), (OTHERS, decoders_of_others)):
        cl.compare(
            [*ours, *methods],
            trial.held_out,
            train=trial.train,
            decoders=decoders,
            n_seeds=N_SEEDS,
            config=trial.fit,
            token_labels=trial.token_labels,
            keep=_file_of(name),
            long_texts="truncate",
            **readout,
        )


def _compare_faithfulness(trial: Trial, name: str, ours: Sequence[cl.Lens]) -> None:
    """Do codes matter? Ours and k-means, each with a transformer decoder."""
    cl.compare(
        [*ours, "k-means"],
        trial.texts,
        trial.classes,
        train=trial.train,
        decoders=["transformer"],
        bounds=False,
        n_seeds=N_SEEDS,
        config=trial.fit,
        keep=_file_of_judged(name),
        long_texts="truncate",
        **DRAWS,
        **trial.options,
    )


def _codes(name: str) -> cl.Comparison:
    """What has been measured of the codes of a trial."""
    return _kept(_file_of(name))


def _judged(name: str) -> cl.Comparison:
    """What has been measured of their faithfulness."""
    return _kept(_file_of_judged(name))


def _kept(path: Path) -> cl.Comparison:
    return cl.Comparison.load(path) if path.is_file() else cl.Comparison(pd.DataFrame(), 0, 0, {})


def _file_of(name: str) -> Path:
    return data.KEPT / f"{name}.json"


def _file_of_judged(name: str) -> Path:
    return _file_of(f"{name}-faithfulness")


def _forget_texts(path: Path) -> None:
    """Takes what was said of single texts out of a file: data sets are not part of the project."""
    comparison = cl.Comparison.load(path)
    without_texts: dict[tuple[str, str], cl.Faithfulness] = {}
    for row, judged in comparison.faithfulness.items():
        without_texts[row] = dataclasses.replace(judged, texts=pd.DataFrame())
    dataclasses.replace(comparison, faithfulness=without_texts).save(path)


def write() -> None:
    """Writes the page of all that is measured."""
    codes: dict[str, cl.Comparison] = {}
    judged: dict[str, cl.Comparison] = {}
    missing: list[str] = []
    for name in trials.NAMES:
        if _file_of_judged(name).is_file():
            _forget_texts(_file_of_judged(name))
        codes[name], judged[name] = _codes(name), _judged(name)
        lacking = _missing(codes[name], METHODS) if name in trials.CODES else []
        if lacking:
            missing.append(f"{name} ({', '.join(lacking)})")
        if name in trials.CLASSES and _missing(judged[name], JUDGED):
            missing.append(f"{name}, faithfulness")
    comparison_page.write(codes, judged, missing, n_seeds=N_SEEDS)


def _missing(comparison: cl.Comparison, methods: Sequence[str]) -> list[str]:
    """The methods that are not measured yet."""
    return [method for method in methods if method not in comparison.methods]


def main(arguments: Sequence[str]) -> None:
    """Compares methods in the trials of some names, or all of them, and writes the page."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.paper",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="trial", help=", ".join(trials.NAMES))
    parser.add_argument("--tables", action="store_true", help="measure nothing, write the page")
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore", message="HookedTransformer is deprecated")
    if not options.tables:
        for name in options.names or trials.NAMES:
            run(name)
    write()


if __name__ == "__main__":
    main(sys.argv[1:])
