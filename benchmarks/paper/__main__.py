"""The paper's comparison: ``python -m benchmarks.paper [data set ...]``.

Every method on every data set, by the published protocol and the honest one. What a method gave is
kept in ``benchmarks/results/paper/<data set>.json``; what is there is not done again, so that an
interrupted run goes on. ``--tables`` only writes the tables and figures of what is there.
"""

import argparse
import dataclasses
import json
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

import clvq_lens as cl
from benchmarks import markdown
from benchmarks.paper import causal, data, finetune
from benchmarks.paper.pictures import write_png

RESULTS = data.ROOT / "benchmarks/results"
N_SEEDS = 3
N_TEXTS = 200  # judged in each data set, as many of each class
N_TRAIN = 1_500  # texts to fit on: all their activations fit the buffer
SOURCE, TARGET = 2, 4  # of MiniLM's blocks 0 to 5: one is left to read what codes say
FIT = cl.FitConfig(
    n_tokens=100_000,
    batch_tokens=1_024,
    n_evaluations=5,
    buffer_tokens=2**18,
    long_texts="truncate",
)
# Fewer than by default: ten methods, each fitted three times, take hours as it is.
DRAWS = {"n_draws": 5, "n_model_draws": 1, "n_steps": 16}
BASELINES = (
    "k-means",
    "spherical k-means",
    "balanced k-means",
    "agglomerative",
    "single-layer VQ-VAE",
    "random codes",
    "token identity",
    "sparse autoencoder",
    "transcoder",
)
CAUSAL = ("surroundings", "pronouns")
_PACKAGES = ("torch", "transformer-lens", "scikit-learn", "clvq-lens")
NAMES = (*CAUSAL, *data.NAMES)
METHODS = ["CLVQ", *BASELINES]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A model, and texts that it classifies.

    Attributes:
        model: The model to attach to.
        source: Layer that the codes stand for.
        target: Layer that is reconstructed.
        n_codes: Codes of every method.
        texts: Texts to judge with.
        classes: The class of each of them.
        train: Texts to fit on.
        options: Options of faithfulness.
    """

    model: Any
    source: int
    target: int
    n_codes: int
    texts: list[str]
    classes: list[int]
    train: list[str]
    options: dict[str, Any]


def run(name: str) -> None:
    """Compares all methods on one data set; each is kept as soon as it is measured."""
    if _measured(name).methods == METHODS:  # before a model is loaded or fine-tuned
        return
    trial = _causal(name) if name in CAUSAL else _encoder(name)
    cl.compare(
        [_fitted(trial, name), *BASELINES],
        trial.texts,
        trial.classes,
        train=trial.train,
        n_seeds=N_SEEDS,
        config=FIT,
        keep=_file_of(name),
        long_texts="truncate",
        progress=True,
        **DRAWS,
        **trial.options,
    )


def _measured(name: str) -> cl.Comparison:
    """What has been measured of a data set."""
    path = _file_of(name)
    return cl.Comparison.load(path) if path.is_file() else cl.Comparison(pd.DataFrame(), 0, 0, {})


def _file_of(name: str) -> Path:
    return RESULTS / "paper" / f"{name}.json"


def _fitted(trial: Trial, name: str) -> cl.Lens:
    """CLVQ; the same one when a run goes on, because its file knows it by its name alone."""
    folder = finetune.RUNS / "lenses" / name
    model = trial.model
    if folder.is_dir():
        return model.add_clvq(quantizer=cl.load(folder), name=METHODS[0])
    lens = model.add_clvq(trial.source, trial.target, n_codes=trial.n_codes, name=METHODS[0])
    lens.fit(trial.train, FIT)
    lens.save(folder)
    return lens


def _encoder(name: str) -> Trial:
    """MiniLM, fine-tuned for the task, and its own head."""
    texts = data.load(name)
    classifier = finetune.load(texts.task)
    judged = texts.evaluation.sample(N_TEXTS, seed=0)
    head = cl.head(classifier.weight, classifier.bias, layer=5)
    return Trial(
        model=classifier.model,
        source=SOURCE,
        target=TARGET,
        n_codes=400,
        texts=judged.texts,
        classes=judged.classes.tolist(),
        train=texts.train.sample(N_TRAIN, seed=0).texts,
        options={"documents": judged.documents.tolist(), "readout": head},
    )


def _causal(name: str) -> Trial:
    """A causal model and its own next token."""
    question = getattr(causal, name)()
    return Trial(
        model=question.model,
        source=question.layers[0],
        target=question.layers[1],
        n_codes=question.n_codes,
        texts=question.texts[:N_TEXTS],
        classes=question.classes[:N_TEXTS],
        train=question.train,
        options={"readout": cl.answers(question.answers)},
    )


def _forget_texts(path: Path) -> None:
    """Takes what was said of single texts out of a file: data sets are not part of the project."""
    comparison = cl.Comparison.load(path)
    without_texts: dict[str, cl.Faithfulness] = {}
    for method, judged in comparison.faithfulness.items():
        without_texts[method] = dataclasses.replace(judged, texts=pd.DataFrame())
    dataclasses.replace(comparison, faithfulness=without_texts).save(path)


def tables() -> None:
    """Writes paper.md and a figure for each data set; what a person wrote above its mark stays."""
    path = RESULTS / "paper.md"
    remarks = path.read_text().split(MARK)[0] if path.exists() else "# The paper's comparison\n\n"
    for file in (RESULTS / "paper").glob("*.json"):
        _forget_texts(file)
    sections = [remarks + MARK + "\n", HEAD.format(**_settings())]
    missing: list[str] = []
    for name in NAMES:
        comparison = _measured(name)
        missing += _missing(name, comparison)
        if comparison.methods:
            figure = RESULTS / "figures" / f"paper-{name}.png"
            write_png(comparison.plot(), figure)
            sections.append(_section(name, comparison, figure))
    if missing:
        sections.append(f"Not measured yet: {'; '.join(missing)}.\n")
    path.write_text("\n".join(sections))


def _missing(name: str, comparison: cl.Comparison) -> list[str]:
    """What is not measured yet of a data set, in words; nothing if all of it is."""
    lacking = [method for method in METHODS if method not in comparison.methods]
    if not lacking:
        return []
    return [f"{name} ({', '.join(lacking)})" if comparison.methods else name]


def _section(name: str, comparison: cl.Comparison, figure: Path) -> str:
    task = "" if name in CAUSAL else _accuracy(name)
    judged = comparison.faithfulness[METHODS[0]]
    verdict = "- " + judged.verdict().replace("\n", "\n- ")
    return (
        f"## {name}\n\n{judged.n_texts} texts of {judged.n_documents} documents{task}; chance "
        f"{judged.chance:.3f}; completeness error of integrated gradients "
        f"{judged.completeness_error:.2%}.\n\n{_markdown(comparison.table())}\n\n"
        f"![](figures/{figure.name})\n\nCLVQ, first fit, honest protocol:\n\n{verdict}\n"
    )


def _accuracy(name: str) -> str:
    task = data.load(name).task
    metrics = json.loads((finetune.RUNS / task / "metrics.json").read_text())
    return f"; MiniLM fine-tuned for it is right in {metrics['accuracy'][name]['value']:.3f}"


def _markdown(table: pd.DataFrame) -> str:
    """Metrics as columns would be too wide, so each of them is a line of its own."""
    turned = table.set_index("method").T
    rows = []
    for title, row in turned.iterrows():
        rows.append([str(title), *row])
    return markdown.table(["", *turned.columns], "l" * (len(turned.columns) + 1), rows)


MARK = "<!-- below: written by benchmarks.paper -->"
HEAD = """`python -m benchmarks.paper` with {versions}; {fit};
each fit with a seed of its own. Values are means over {n_seeds} fits; brackets reach from the
lowest to the highest end of their 95 % bootstrap intervals over documents. All methods have as many
codes, and the same texts to fit on.
"""


def _settings() -> dict[str, Any]:
    return {
        "versions": markdown.versions(_PACKAGES),
        "n_seeds": N_SEEDS,
        "fit": f"{FIT.n_tokens:,} tokens a fit, of {N_TRAIN:,} texts with MiniLM",
    }


def main(arguments: Sequence[str]) -> None:
    """Compares methods on the data sets of some names, or all of them, and writes the page."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.paper",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="data set", help=", ".join(NAMES))
    parser.add_argument("--tables", action="store_true", help="measure nothing, write the page")
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore", message="HookedTransformer is deprecated")
    if not options.tables:
        for name in options.names or NAMES:
            run(name)
    tables()


if __name__ == "__main__":
    main(sys.argv[1:])
