"""The paper's comparison: ``python -m benchmarks.paper [data set ...]``.

Every method on every data set, by the published protocol and the honest one. What a data set gave
is kept in ``runs/paper/<data set>/``; what is there is not done again, so that an interrupted run
goes on. ``--tables`` only writes the tables and figures of what is there.
"""

import json
import sys
import time
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import clvq_lens as cl
from benchmarks.paper import causal, data, finetune
from benchmarks.paper.pictures import write_png

RESULTS = data.ROOT / "benchmarks/results"
N_SEEDS = 3
N_TEXTS = 300  # judged in each data set, as many of each class
N_TRAIN = 4_000  # texts to fit on
SOURCE, TARGET = 3, 5  # of MiniLM's 6 blocks: the last third, as 8 -> 12 of BERT's 12
FIT = cl.FitConfig(n_tokens=100_000, batch_tokens=1_024, n_evaluations=1, long_texts="truncate")
DRAWS = {"n_draws": 5, "n_model_draws": 2, "n_steps": 12}
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
NAMES = (*CAUSAL, *data.NAMES)


def run(name: str) -> None:
    """Compares all methods on one data set and keeps what came out."""
    folder = finetune.RUNS / name
    if (folder / "fits.csv").is_file():
        return
    start = time.monotonic()
    prepare = _causal if name in CAUSAL else _encoder
    lens, texts, labels, train, options = prepare(name)
    lens.fit(train, FIT, progress=False)
    comparison = cl.compare(
        [lens, *BASELINES],
        texts,
        labels,
        train=train,
        n_seeds=N_SEEDS,
        fit=FIT,
        long_texts="truncate",
        progress=True,
        **DRAWS,
        **options,
    )
    folder.mkdir(parents=True, exist_ok=True)
    judged = comparison.faithfulness[lens.name]
    judged.frame().to_csv(folder / "conditions.csv", index=False)
    judged.specific().to_csv(folder / "contrasts.csv", index=False)
    about = {
        **{"n_texts": len(texts), "n_train": len(train), "seconds": time.monotonic() - start},
        **{"chance": judged.chance, "verdict": judged.verdict()},
        **{"completeness_error": judged.completeness_error},
    }
    (folder / "about.json").write_text(json.dumps(about, indent=1))
    comparison.fits.to_csv(folder / "fits.csv", index=False)  # last: it says that all is there


def _encoder(name: str) -> tuple[cl.Lens, list[str], list[int], list[str], dict[str, Any]]:
    """MiniLM, fine-tuned for the task, and its own head."""
    texts = data.load(name)
    classifier = finetune.load(texts.task)
    lens = classifier.model.add_clvq(SOURCE, TARGET, n_codes=400, name="CLVQ")
    judged = texts.evaluation.sample(N_TEXTS, seed=0)
    train = texts.train.sample(N_TRAIN, seed=0).texts
    head = cl.head(classifier.weight, classifier.bias, at=5)
    options = {"documents": judged.documents.tolist(), "readout": head}
    return lens, judged.texts, judged.labels.tolist(), train, options


def _causal(name: str) -> tuple[cl.Lens, list[str], list[int], list[str], dict[str, Any]]:
    """A causal model and its own next token."""
    question = getattr(causal, name)()
    lens = question.model.add_clvq(1, 3, n_codes=400 if name == "pronouns" else 128, name="CLVQ")
    options = {"readout": cl.answers(question.answers)}
    return lens, question.texts[:N_TEXTS], question.labels[:N_TEXTS], question.train, options


def tables() -> None:
    """Writes paper.md and a figure for each data set; what a person wrote above its mark stays."""
    path = RESULTS / "paper.md"
    remarks = path.read_text().split(MARK)[0] if path.exists() else "# The paper's comparison\n\n"
    parts = [remarks + MARK + "\n", HEAD.format(**_settings())]
    for name in NAMES:
        folder = finetune.RUNS / name
        if not (folder / "fits.csv").is_file():
            continue
        about = json.loads((folder / "about.json").read_text())
        fits = pd.read_csv(folder / "fits.csv")
        comparison = cl.Comparison(fits, N_SEEDS, about["n_texts"], {})
        figure = RESULTS / "figures" / f"paper-{name}.png"
        write_png(comparison.plot(), figure)
        parts += [_section(name, about, comparison, figure)]
    missing = [name for name in NAMES if not (finetune.RUNS / name / "fits.csv").is_file()]
    if missing:
        parts += [f"Not measured yet: {', '.join(missing)}.\n"]
    path.write_text("\n".join(parts))


def _section(name: str, about: dict[str, Any], comparison: cl.Comparison, figure: Path) -> str:
    task = "" if name in CAUSAL else _accuracy(name)
    verdict = "\n".join(f"- {line}" for line in about["verdict"].split("\n"))
    return (
        f"## {name}\n\n{about['n_texts']} texts judged, {about['n_train']} to fit on{task}; chance "
        f"{about['chance']:.3f}; completeness error of integrated gradients "
        f"{about['completeness_error']:.2%}.\n\n{_markdown(comparison.table())}\n\n"
        f"![](figures/{figure.name})\n\nCLVQ, first fit, honest protocol:\n\n{verdict}\n"
    )


def _accuracy(name: str) -> str:
    task = data.load(name).task
    metrics = json.loads((finetune.RUNS / task / "metrics.json").read_text())
    return f"; MiniLM fine-tuned for it is right in {metrics['accuracy'][name]['value']:.3f}"


def _markdown(table: pd.DataFrame) -> str:
    """Methods as columns would be too wide, so each metric is a line of its own."""
    turned = table.set_index("method").T
    lines = ["| | " + " | ".join(turned.columns) + " |", "|---" * (len(turned.columns) + 1) + "|"]
    lines += [f"| {name} | " + " | ".join(row) + " |" for name, row in turned.iterrows()]
    return "\n".join(lines)


MARK = "<!-- below: written by benchmarks.paper -->"
HEAD = """`python -m benchmarks.paper` with {versions}; {threads} threads; {fit};
each fit with a seed of its own. Values are means over {n_seeds} fits; brackets reach from the
lowest to the highest end of their 95 % bootstrap intervals over documents. All methods have as many
codes, and the same texts to fit on.
"""


def _settings() -> dict[str, Any]:
    packages = ("torch", "transformer-lens", "scikit-learn", "clvq-lens")
    return {
        "versions": ", ".join(f"{package} {version(package)}" for package in packages),
        "threads": torch.get_num_threads(),
        "n_seeds": N_SEEDS,
        "fit": f"{FIT.n_tokens:,} tokens a fit",
    }


def main(arguments: Sequence[str]) -> None:
    warnings.filterwarnings("ignore", message="HookedTransformer is deprecated")
    names = [name for name in arguments if not name.startswith("--")] or NAMES
    if "--tables" not in arguments:
        for name in names:
            run(name)
    tables()


if __name__ == "__main__":
    main(sys.argv[1:])
