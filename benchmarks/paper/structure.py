"""What codes are beside other partitions of tokens: ``python -m benchmarks.paper.structure``.

The collapse of duplicates, known labels, names that tell codes, and agreement between fits. A part
is one file of ``benchmarks/results/paper/structure/``; what is there is not done again, so that an
interrupted run goes on. Names of parts, such as ``stability``, do only those; ``--tables`` only the
page.
"""

import json
import sys
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from tqdm import tqdm

import clvq_lens as cl
from benchmarks.paper import ENCODERS, ablations, data, finetune, structure_page, treebank
from benchmarks.stories import stories_model
from clvq_lens.config import EncoderName

PARTS = data.KEPT / "structure"
SEEDS = (0, 1, 2)
KINDS = ("k-means", "spherical k-means", "random codes")
THRESHOLD = 0.9
CURVE = (0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)
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
        options: Options of `clvq_lens.CLVQConfig`.
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
        """What the page says of it."""
        options = [f"{option} {value}" for option, value in self.options.items()]
        layers = f"block {self.layers[0]} -> {self.layers[1]}"
        return ", ".join([name, layers, *options, f"{self.n_tokens:,} tokens a fit"])

    def fitted(self, loaded: Loaded, seed: int, encoder: EncoderName = "predictive") -> cl.Lens:
        """A lens on the model, fitted with one seed."""
        lens = loaded.model.add_clvq(*self.layers, encoder=encoder, name=encoder, **self.options)
        lens.fit(loaded.train, self.fit, seed=seed, progress=False)
        return lens


def stories() -> Loaded:
    """The first words of each story, as in the ablations."""
    return Loaded(stories_model(), *ablations.short_stories())


def toy() -> Loaded:
    """A small world whose concepts are known."""
    world = cl.toy.load(n_texts=500)
    return Loaded(world.model, world.texts[:400], world.texts[400:])


def minilm() -> Loaded:
    """MiniLM, fine-tuned for sentiment, and snippets that it was not tuned on."""
    # From the evaluation alone: the classifier was tuned on the others.
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
Part = tuple[dict[str, pd.DataFrame], dict[str, Any]]
"""Tables by name, and what the page says of them."""


# ---- what is measured ----------------------------------------------------------------------------


def collapse(name: str, seed: int) -> Part:
    """Codes beside the clusters of every layer, clustered on all tokens of the same texts."""
    subject = SUBJECTS[name]
    loaded = subject.load()
    result = cl.collapse(
        _of_encoders(subject, loaded, seed),
        loaded.train,
        held_out=loaded.held_out,
        n_tokens=ALL,
        seed=seed,
        progress=False,
    )
    tables = {"layers": result.frame(), "methods": result.summary(), "grid": result.grid()}
    about = {
        "n_tokens": result.n_tokens,
        "n_held_out": result.n_held_out,
        "n_documents": len(loaded.held_out),
    }
    return tables, about


def alignment(name: str, seed: int) -> Part:
    """Codes and clusters beside known labels of text that neither was fitted on."""
    subject = SUBJECTS[name]
    loaded = subject.load()
    lenses = _own_and_k_means(subject, loaded, seed)
    lenses["k-means of the target"] = _k_means(_at_target(subject, loaded), subject, loaded, seed)
    tables: dict[str, pd.DataFrame] = {}
    about: dict[str, Any] = {}
    for kind, (texts, token_labels) in _known_labels(name, loaded).items():
        result = cl.alignment(
            lenses, texts, token_labels, threshold=THRESHOLD, seed=seed, progress=False
        )
        tables[f"{kind}/curve"] = result.over_thresholds(CURVE)
        tables[f"{kind}/labels"] = result.labels()
        about[kind] = {
            "n_texts": len(texts),
            "n_tokens": int(result.label_tokens.sum()),
            "n_labels": int((result.label_tokens >= result.min_tokens).sum()),
        }
    return tables, about


def detection(name: str, seed: int) -> Part:
    """Can codes be told by their names? A name is made of a code's distinctive tokens."""
    subject = SUBJECTS[name]
    loaded = subject.load()
    rows: list[pd.DataFrame] = []
    for method, lens in _own_and_k_means(subject, loaded, seed).items():
        concepts = partial(lens.concepts, seed=seed, progress=False)
        names = concepts(loaded.train, n_examples=0).named().names()
        # Of other texts: the tokens of a name come from all that were read for it.
        result = cl.detection(concepts(loaded.held_out), names=names, seed=seed)
        n_codes, n_left_out = len(result.codes), len(result.left_out)
        rows.append(result.summary().assign(method=method, n_codes=n_codes, n_left_out=n_left_out))
    return {"methods": pd.concat(rows, ignore_index=True)}, {"n_documents": len(loaded.held_out)}


def _known_labels(name: str, loaded: Loaded) -> dict[str, treebank.Labeled]:
    """Texts and the label of every token of them, by kind of label."""
    if name == "toy world":
        return {"concept": (loaded.held_out, cl.toy.token_labels(loaded.held_out))}
    return treebank.of_words(loaded.model)


def _of_encoders(subject: Subject, loaded: Loaded, seed: int) -> dict[str, cl.Lens]:
    """Codes of each of our encoders."""
    lenses: dict[str, cl.Lens] = {}
    for encoder in ENCODERS:
        lenses[f"{encoder} codes"] = subject.fitted(loaded, seed, encoder=encoder)
    return lenses


def _own_and_k_means(subject: Subject, loaded: Loaded, seed: int) -> dict[str, cl.Lens]:
    """Codes of each of our encoders, and of k-means of the source."""
    lenses = _of_encoders(subject, loaded, seed)
    lenses["k-means"] = _k_means(lenses["predictive codes"], subject, loaded, seed)
    return lenses


def _k_means(lens: cl.Lens, subject: Subject, loaded: Loaded, seed: int) -> cl.Lens:
    return lens.baseline("k-means", loaded.train, subject.fit, seed=seed, progress=False)


def _at_target(subject: Subject, loaded: Loaded) -> cl.Lens:
    """A lens whose baselines read the target; nobody looks at its own codes."""
    target = subject.layers[1]
    lens = loaded.model.add_clvq(
        target,
        target + 1,
        n_codes=subject.options["n_codes"],
        encoder="residual",  # costs least: nobody looks at what it learns
        decoder="table",
    )
    lens.fit(loaded.train, subject.fit, n_tokens=5_000, progress=False)
    return lens


def stability(name: str, how: str) -> Part:
    """Agreement of fits that differ in their seed, or in their half of the texts."""
    subject = SUBJECTS[name]
    loaded = subject.load()
    refits = partial(cl.refits, data=loaded.train, how=how, config=subject.fit, progress=False)
    fits: dict[str, list[cl.Lens]] = {}
    with ExitStack() as stack:
        for encoder in ENCODERS:
            first = subject.fitted(loaded, SEEDS[0], encoder=encoder)
            # The first fit saw all texts, so it is none of a pair of halves.
            own = [first] if how == "seeds" else []
            others = stack.enter_context(refits(first, seeds=len(SEEDS) - len(own)))
            fits[f"{encoder} codes"] = [*own, *others]
        for kind in KINDS:
            fits[kind] = stack.enter_context(refits(first, seeds=len(SEEDS), kind=kind))
        result = cl.stability(fits, loaded.held_out, how=how, progress=False)
    about = {"n_tokens": result.n_tokens, "n_documents": result.n_documents}
    return {"methods": result.frame(), "pairs": result.pairs_frame()}, about


# ---- parts ---------------------------------------------------------------------------------------


def parts() -> dict[str, Callable[[], Part]]:
    """Everything that is measured, by the name of its file; what takes longest comes last."""
    every: dict[str, Callable[[], Part]] = {}
    for seed in SEEDS:
        for name in ("toy world", "stories260K"):
            every[f"detection-{name}-{seed}"] = partial(detection, name, seed)
            every[f"alignment-{name}-{seed}"] = partial(alignment, name, seed)
    every["stability-stories260K-seeds"] = partial(stability, "stories260K", "seeds")
    for seed in SEEDS:
        for name in SUBJECTS:
            every[f"collapse-{name}-{seed}"] = partial(collapse, name, seed)
    every["stability-stories260K-halves"] = partial(stability, "stories260K", "halves")
    return every


def run(wanted: list[str]) -> None:
    """Measures what is not there yet.

    Args:
        wanted: How the names of parts begin; empty: all parts.
    """
    PARTS.mkdir(parents=True, exist_ok=True)
    todo: dict[Path, Callable[[], Part]] = {}
    for name, measure in parts().items():
        path = PARTS / f"{name.replace(' ', '_')}.json"
        is_wanted = not wanted or name.startswith(tuple(wanted))
        if is_wanted and not path.exists():
            todo[path] = measure
    for path, measure in tqdm(todo.items(), unit="part"):
        tables, about = measure()
        rows = {}
        for name, table in tables.items():
            # By pandas: it writes numpy's numbers, and null for NaN.
            rows[name] = json.loads(table.to_json(orient="records"))
        path.write_text(json.dumps({"about": about, "tables": rows}))


def measured(name: str) -> structure_page.Measured:
    """The parts of that name that are there, by what comes after it."""
    prefix = f"{name.replace(' ', '_')}-"
    there: dict[str, Part] = {}
    for path in sorted(PARTS.glob(f"{prefix}*")):
        there[path.stem.removeprefix(prefix)] = _read(path)
    return there


def _read(path: Path) -> Part:
    part = json.loads(path.read_text())
    tables: dict[str, pd.DataFrame] = {}
    for name, rows in part["tables"].items():
        tables[name] = pd.DataFrame(rows)
    return tables, part["about"]


def write() -> None:
    """The page of results; what a person wrote above its mark stays."""
    sections = []
    for question, write_section in (
        ("collapse", structure_page.collapse),
        ("alignment", partial(structure_page.alignment, threshold=THRESHOLD)),
        ("detection", structure_page.detection),
        ("stability", structure_page.stability),
    ):
        for name, subject in SUBJECTS.items():
            there = measured(f"{question}-{name}")
            if there:  # not every question is asked of every subject
                sections += write_section(name, subject.said(name), there)
    structure_page.write(sections, SEEDS)


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "Hooked.* is deprecated", DeprecationWarning)
    if "--tables" not in sys.argv:
        run(sys.argv[1:])
    write()
