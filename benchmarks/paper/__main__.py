"""The paper's comparison on equal terms: ``python -m benchmarks.paper [trial ...]``.

Codes of every method are measured with the same decoders, beside what codes could reach and what
chance gives; where texts have classes, the faithfulness of ours and of k-means by the published
protocol and the honest one. What a method gave is kept in ``benchmarks/results/paper/``; what is
there is not done again, so that an interrupted run goes on. ``--tables`` only writes the tables and
figures of what is there.
"""

import argparse
import dataclasses
import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

import clvq_lens as cl
from benchmarks import markdown
from benchmarks.paper import ENCODERS, data, finetune, trials
from benchmarks.paper.pictures import write_png
from benchmarks.paper.trials import Trial
from clvq_lens.comparison.comparison import as_table
from clvq_lens.comparison.described import METRICS
from clvq_lens.config import DecoderName, EncoderName
from clvq_lens.plots.comparison_panels import plot_comparison

RESULTS = data.ROOT / "benchmarks/results"
N_SEEDS = 3
CLOSE = ("k-means", "spherical k-means", "balanced k-means")
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
_IN_FIGURES = (
    "fvu",
    "ce_loss_recovered",
    "readout_kl",
    "purity_ambiguous",
    "ami_ambiguous",
    "stability",
)
_PACKAGES = ("torch", "transformer-lens", "scikit-learn", "clvq-lens")


def run(name: str) -> None:
    """Compares all methods in one trial; each is kept as soon as it is measured."""
    if _is_done(name):  # before a model is loaded or fine-tuned
        return
    trial = trials.load(name)
    with trial.reading:
        ours = [_fitted(trial, name, encoder) for encoder in ENCODERS]
        if name in trials.CODES:
            _compare_codes(trial, name, ours)
        if trial.classes is not None:
            _compare_faithfulness(trial, name, ours)


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
        keep=_file_of(f"{name}-faithfulness"),
        long_texts="truncate",
        **DRAWS,
        **trial.options,
    )


def _codes(name: str) -> cl.Comparison:
    """What has been measured of the codes of a trial."""
    return _kept(_file_of(name))


def _judged(name: str) -> cl.Comparison:
    """What has been measured of their faithfulness."""
    return _kept(_file_of(f"{name}-faithfulness"))


def _kept(path: Path) -> cl.Comparison:
    return cl.Comparison.load(path) if path.is_file() else cl.Comparison(pd.DataFrame(), 0, 0, {})


def _file_of(name: str) -> Path:
    return RESULTS / "paper" / f"{name}.json"


def _fitted(trial: Trial, name: str, encoder: EncoderName) -> cl.Lens:
    """One of ours; the same when a run goes on, because its file knows it by its name alone."""
    folder = finetune.RUNS / "lenses" / f"{name}-{encoder}"
    if folder.is_dir():
        return trial.model.add_clvq(quantizer=cl.load(folder), name=encoder)
    lens = trial.model.add_clvq(*trial.layers, n_codes=trial.n_codes, encoder=encoder, name=encoder)
    lens.fit(trial.train, trial.fit)
    lens.save(folder)
    return lens


def _forget_texts(path: Path) -> None:
    """Takes what was said of single texts out of a file: data sets are not part of the project."""
    comparison = cl.Comparison.load(path)
    without_texts: dict[tuple[str, str], cl.Faithfulness] = {}
    for row, judged in comparison.faithfulness.items():
        without_texts[row] = dataclasses.replace(judged, texts=pd.DataFrame())
    dataclasses.replace(comparison, faithfulness=without_texts).save(path)


def tables() -> None:
    """Writes paper.md and the figures; what a person wrote above its mark stays."""
    path = RESULTS / "paper.md"
    remarks = path.read_text().split(MARK)[0] if path.exists() else "# The paper's comparison\n\n"
    for file in (RESULTS / "paper").glob("*.json"):
        _forget_texts(file)
    sections = [remarks + MARK + "\n", HEAD.format(**_settings())]
    missing: list[str] = []
    for name in trials.NAMES:
        codes, judged = _codes(name), _judged(name)
        if codes.methods:
            sections.append(_section_of_codes(name, codes))
        if judged.methods:
            sections.append(_section_of_classes(name, judged))
        lacking = _missing(codes, METHODS) if name in trials.CODES else []
        if lacking:
            missing.append(f"{name} ({', '.join(lacking)})")
        if name in trials.CLASSES and _missing(judged, JUDGED):
            missing.append(f"{name}, faithfulness")
    if missing:
        sections.append(f"Not measured yet: {'; '.join(missing)}.\n")
    path.write_text("\n".join(sections))


def _missing(comparison: cl.Comparison, methods: Sequence[str]) -> list[str]:
    """The methods that are not measured yet."""
    return [method for method in methods if method not in comparison.methods]


def _section_of_codes(name: str, comparison: cl.Comparison) -> str:
    figure = RESULTS / "figures" / f"paper-{name}.png"
    shown = {metric: METRICS[metric] for metric in _IN_FIGURES}
    write_png(plot_comparison(comparison.frame(), shown), figure)
    differences = as_table(comparison.differences(ENCODERS[0]))
    return (
        f"## {name}\n\n{_as_markdown(comparison.table())}\n\n![](figures/{figure.name})\n\n"
        f"Less what {ENCODERS[0]} codes have with the same decoder, on the same documents:\n\n"
        f"{_as_markdown(differences)}\n"
    )


def _as_markdown(table: pd.DataFrame) -> str:
    """A table of methods and their decoders."""
    cells = table.astype(str).to_numpy().tolist()
    return markdown.table(list(table.columns), "ll" + "r" * (len(table.columns) - 2), cells)


def _section_of_classes(name: str, comparison: cl.Comparison) -> str:
    judged = comparison.faithfulness[JUDGED[0], "transformer"]
    verdict = "- " + judged.verdict().replace("\n", "\n- ")
    accuracy = _accuracy(name) if name in trials.CODES else ""
    return (
        f"## {name}: do codes matter?\n\n{judged.n_texts} texts of {judged.n_documents} "
        f"documents{accuracy}; chance {judged.chance:.3f}; completeness error of integrated "
        f"gradients {judged.completeness_error:.2%}.\n\n{_metrics_as_rows(comparison.table())}\n\n"
        f"{JUDGED[0]}, first fit, honest protocol:\n\n{verdict}\n"
    )


def _accuracy(name: str) -> str:
    task = data.load(name).task
    metrics = json.loads((finetune.RUNS / task / "metrics.json").read_text())
    return f"; MiniLM fine-tuned for it is right in {metrics['accuracy'][name]['value']:.3f}"


def _metrics_as_rows(table: pd.DataFrame) -> str:
    """Few methods and many metrics: metrics as columns would be too wide."""
    turned = table.drop(columns="decoder").set_index("method").T
    rows = []
    for title, row in turned.iterrows():
        rows.append([str(title), *row])
    return markdown.table(["", *turned.columns], "l" * (len(turned.columns) + 1), rows)


MARK = "<!-- below: written by benchmarks.paper -->"
HEAD = """`python -m benchmarks.paper` with {versions}; each fit with a seed of its
own. Values are means over {n_seeds} fits; brackets reach from the lowest to the highest end of
their 95 % intervals over documents (jackknife), those of effects of removals also over codes, and
those of specific drops are as wide as Holm's method asks. All methods of a trial have the same
texts and budget to fit on, and the same decoders: "table" holds the mean target of each code,
"transformer" is trained on codes that stay what they are. Rows that are no methods: random codes;
k-means of the target, which reads what no code of the source can see; and the prediction of the
target from the source before it is quantized. Second tables: each method less {first} codes, fit
by fit and on the same documents; where the interval leaves out 0, one is better than the other.
"""


def _settings() -> dict[str, Any]:
    return {"versions": markdown.versions(_PACKAGES), "n_seeds": N_SEEDS, "first": ENCODERS[0]}


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
    tables()


if __name__ == "__main__":
    main(sys.argv[1:])
