"""What codes are beside other partitions of tokens: ``python -m benchmarks.paper.structure``.

The collapse of duplicates, known labels, and agreement between fits. A part is one file of
``runs/paper/structure/``; what is there is not done again, so that an interrupted run goes on.
Names of parts, such as ``stability``, do only those; ``--tables`` only writes the page.
"""

import json
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from tqdm import tqdm

import clvq_lens as cl
from benchmarks.paper import ablations, data, finetune, structure_page

RUNS = finetune.RUNS / "structure"
SEEDS = (0, 1, 2)
N_SENTENCES = 600
EVERY = 3  # of the sentences, so that these come from all kinds of text
KINDS = ("k-means", "spherical k-means", "random codes")
THRESHOLD = 0.9
CURVE = (0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)
N_REPLICATES = 1_000
ALL = 10**6  # more tokens than any of the texts have


class Loaded(NamedTuple):
    """A model, texts to fit on, and others to judge with."""

    model: Any
    train: list[str]
    held_out: list[str]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What codes are fitted on, and how.

    Attributes:
        load: Gives model and texts.
        layers: Source and target.
        options: Of `clvq_lens.CLVQConfig`.
        n_tokens: Tokens of a fit; texts are read again as often as that takes.
    """

    load: Callable[[], Loaded]
    layers: tuple[int, int]
    options: dict[str, Any]
    n_tokens: int

    @property
    def fit(self) -> cl.FitConfig:
        """No text is kept aside, so that every method sees the same tokens."""
        return cl.FitConfig(
            n_tokens=self.n_tokens, batch_tokens=512, n_evaluations=1, held_out_fraction=0.0
        )

    def said(self, name: str) -> str:
        """For the page."""
        options = [f"{option} {value}" for option, value in self.options.items()]
        layers = f"block {self.layers[0]} -> {self.layers[1]}"
        return ", ".join([name, layers, *options, f"{self.n_tokens:,} tokens a fit"])

    def fitted(self, loaded: Loaded, seed: int) -> cl.Lens:
        """A lens on the model."""
        lens = loaded.model.add_clvq(*self.layers, **self.options)
        lens.fit(loaded.train, self.fit, seed=seed, progress=False)
        return lens


def stories() -> Loaded:
    """The first words of each story, as in the ablations."""
    train, held_out = (
        [" ".join(text.split()[: ablations.N_WORDS]) for text in texts] for texts in data.stories()
    )
    return Loaded(ablations.stories_model(), train, held_out)


def toy() -> Loaded:
    """A small world whose concepts are known."""
    world = cl.toy.load(n_texts=500)
    return Loaded(world.model, world.texts[:400], world.texts[400:])


def minilm() -> Loaded:
    """MiniLM, fine-tuned for sentiment, and snippets that it was not tuned on."""
    texts = data.load("rotten_tomatoes").evaluation.sample(900, seed=0).texts
    return Loaded(finetune.load("sentiment").model, texts[:600], texts[600:])


SUBJECTS = {
    "toy world": Subject(load=toy, layers=(0, 2), options={"n_codes": 64}, n_tokens=60_000),
    "MiniLM": Subject(
        load=minilm,
        layers=(1, 4),
        options={"n_codes": 200, "decoder": "table"},
        n_tokens=60_000,
    ),
    "stories260K": Subject(load=stories, layers=(1, 3), options={"n_codes": 400}, n_tokens=120_000),
}
Part = tuple[dict[str, pd.DataFrame], dict[str, Any]]  # tables by name, and what is said of them


# ---- what is measured ----------------------------------------------------------------------------


def collapse(name: str, seed: int) -> Part:
    """Codes beside the clusters of every layer, clustered on all tokens of the same texts."""
    subject = SUBJECTS[name]
    loaded = subject.load()
    found = cl.collapse(
        subject.fitted(loaded, seed),
        loaded.train,
        held_out=loaded.held_out,
        n_tokens=ALL,
        n_replicates=N_REPLICATES,
        seed=seed,
        progress=False,
    )
    about = {"n_tokens": found.n_tokens, "n_held_out": found.n_held_out}
    about["n_documents"] = len(loaded.held_out)
    return {"layers": found.frame(), "methods": found.summary(), "grid": found.grid()}, about


def alignment(name: str, seed: int) -> Part:
    """Codes and clusters beside known labels of text that neither was fitted on."""
    subject = SUBJECTS[name]
    loaded = subject.load()
    lens = subject.fitted(loaded, seed)
    lenses = {"codes": lens, "k-means": _k_means(lens, subject, loaded, seed)}
    lenses["k-means of the target"] = _k_means(_at_target(subject, loaded), subject, loaded, seed)
    tables: dict[str, pd.DataFrame] = {}
    about: dict[str, Any] = {}
    for kind, (texts, labels) in known_labels(name, loaded).items():
        found = cl.alignment(
            lenses,
            texts,
            labels,
            threshold=THRESHOLD,
            long_texts="split",
            seed=seed,
        )
        tables |= {f"{kind}/curve": found.at(CURVE), f"{kind}/labels": found.labels()}
        about[kind] = {
            "n_texts": len(texts),
            "n_tokens": int(found.label_tokens.sum()),
            "n_labels": int((found.label_tokens >= found.min_tokens).sum()),
        }
    return tables, about


def _k_means(lens: cl.Lens, subject: Subject, loaded: Loaded, seed: int) -> cl.Lens:
    return lens.baseline("k-means", loaded.train, subject.fit, seed=seed, progress=False)


def _at_target(subject: Subject, loaded: Loaded) -> cl.Lens:
    """A lens whose baselines read the target; its own codes are of no interest."""
    target = subject.layers[1]
    lens = loaded.model.add_clvq(
        target, target + 1, n_codes=subject.options["n_codes"], decoder="table"
    )
    lens.fit(loaded.train, subject.fit, n_tokens=5_000, progress=False)
    return lens


def stability(name: str, how: str) -> Part:
    """Agreement of fits that differ in their seed, or in their half of the texts."""
    subject = SUBJECTS[name]
    loaded = subject.load()
    first = subject.fitted(loaded, SEEDS[0])
    options = {"how": how, "config": subject.fit, "progress": False}
    with ExitStack() as stack:
        fits = {}
        for kind in (None, *KINDS):
            n_seeds = len(SEEDS) - (kind is None and how == "seeds")
            more = cl.refits(first, loaded.train, seeds=n_seeds, kind=kind, **options)
            made = stack.enter_context(more)
            fits[kind or "codes"] = [first, *made] if n_seeds < len(SEEDS) else made
        found = cl.stability(fits, loaded.held_out, how=how, n_replicates=N_REPLICATES)
    about = {"n_tokens": found.n_tokens, "n_documents": found.n_documents}
    return {"methods": found.frame(), "pairs": found.pairs_frame()}, about


# ---- known labels --------------------------------------------------------------------------------

Labelled = tuple[list[str], list[list[str]]]


def known_labels(name: str, loaded: Loaded) -> dict[str, Labelled]:
    """Texts and the label of every token of them, by kind of label."""
    if name == "toy world":
        return {"concept": (loaded.held_out, cl.toy.labels(loaded.held_out))}
    path = data.SHARED / "data/ud_ewt/en_ewt-ud-dev.conllu"
    found = list(sentences(path.read_text(encoding="utf-8")))[::EVERY][:N_SENTENCES]
    texts = [text for text, _ in found]
    labelled: dict[str, Labelled] = {}
    for kind, column in (("UPOS", 3), ("deprel", 7)):
        spans = [
            [(*word[:2], word[2][column].split(":")[0]) for word in words] for _, words in found
        ]
        labelled[kind] = (texts, cl.token_labels(loaded.model, texts, spans))
    return labelled


def sentences(conllu: str) -> Iterator[tuple[str, list[tuple[int, int, list[str]]]]]:
    """Each sentence with its words: where they start and end, and their columns in CoNLL-U."""
    for block in conllu.split("\n\n"):
        lines = block.splitlines()
        text = next((line[9:] for line in lines if line.startswith("# text = ")), None)
        if text is None:
            continue
        words, end = [], 0
        for columns in (line.split("\t") for line in lines if not line.startswith("#")):
            start = text.find(columns[1], end) if columns[0].isdecimal() else -1
            if start >= 0:
                end = start + len(columns[1])
                words.append((start, end, columns))
        yield text, words


# ---- parts ---------------------------------------------------------------------------------------


def parts() -> dict[str, Callable[[], Part]]:
    """Everything that is measured, by the name of its file; what takes longest comes last."""
    every: dict[str, Callable[[], Part]] = {}
    for seed in SEEDS:
        for name in ("toy world", "stories260K"):
            every[f"alignment-{name}-{seed}"] = partial(alignment, name, seed)
    every["stability-stories260K-seeds"] = partial(stability, "stories260K", "seeds")
    for seed in SEEDS:
        every |= {f"collapse-{name}-{seed}": partial(collapse, name, seed) for name in SUBJECTS}
    every["stability-stories260K-halves"] = partial(stability, "stories260K", "halves")
    return every


def run(wanted: list[str]) -> None:
    """Measures what is not there yet."""
    RUNS.mkdir(parents=True, exist_ok=True)
    chosen = {
        RUNS / f"{name.replace(' ', '_')}.json": measure
        for name, measure in parts().items()
        if not wanted or any(name.startswith(each) for each in wanted)
    }
    todo = {path: measure for path, measure in chosen.items() if not path.exists()}
    for path, measure in tqdm(todo.items(), unit="part"):
        tables, about = measure()
        rows = {name: json.loads(table.to_json(orient="records")) for name, table in tables.items()}
        path.write_text(json.dumps({"about": about, "tables": rows}))


def found(name: str) -> structure_page.Found:
    """The parts of that name that are there, by what comes after it."""
    prefix = f"{name.replace(' ', '_')}-"
    return {path.stem.removeprefix(prefix): _read(path) for path in sorted(RUNS.glob(f"{prefix}*"))}


def _read(path: Path) -> Part:
    kept = json.loads(path.read_text())
    return {name: pd.DataFrame(rows) for name, rows in kept["tables"].items()}, kept["about"]


def write() -> None:
    """The page of results; what a person wrote above its mark stays."""
    sections = []
    for name, subject in SUBJECTS.items():
        if there := found(f"collapse-{name}"):
            sections += structure_page.collapse(name, subject.said(name), there)
    for name, subject in SUBJECTS.items():
        if there := found(f"alignment-{name}"):
            sections += structure_page.alignment(name, subject.said(name), there, THRESHOLD)
    for name, subject in SUBJECTS.items():
        if there := found(f"stability-{name}"):
            sections += structure_page.stability(name, subject.said(name), there)
    structure_page.write(sections, SEEDS)


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "Hooked.* is deprecated", DeprecationWarning)
    if "--tables" not in sys.argv:
        run(sys.argv[1:])
    write()
