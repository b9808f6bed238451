"""The trials of the comparison: a model, texts to fit on and to judge with, and a budget."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import clvq_lens as cl
from benchmarks import smollm2
from benchmarks.kept_activations import kept_activations
from benchmarks.paper import causal, data, finetune
from benchmarks.stories import stories_model
from clvq_lens.config import EncoderName

_N_TEXTS = 200  # of each encoder data set whose classes are asked for, as many of each class
_N_HELD_OUT = 1_000  # texts that codes are measured on
_N_TRAIN = 4_000  # texts that MiniLM's codes are fitted on: all their activations fit the buffer
_N_TOY_TRAIN, _N_TOY_HELD_OUT = 3_000, 400
_STORY_WORDS = 200  # of a held-out story
_MINILM_LAYERS = (2, 4)  # of blocks 0 to 5: one is left to read what codes say


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Where and on what methods are compared.

    Attributes:
        model: The model to attach to.
        layers: Source and target.
        n_codes: Codes of every method.
        train: Texts to fit on.
        fit: The budget of every fit.
        held_out: Texts that codes are measured on, in trials that compare codes.
        token_labels: The true concept of every token of these, where it is known.
        texts: Texts that have classes; fewer, since each is read hundreds of times.
        classes: The class of each.
        accuracy: How often the model gives the right class, where it was fine-tuned for that.
        options: Readout, and documents of texts with classes.
        trains_decoders: Whether a transformer decoder is trained for every method, and not only
            for ours and for those that come close.
        reading: What has to be open while the model is read.
    """

    model: Any
    layers: tuple[int, int]
    n_codes: int
    train: list[str]
    fit: cl.FitConfig
    held_out: list[str] = field(default_factory=list)
    token_labels: Sequence[Sequence[str]] | None = None
    texts: list[str] = field(default_factory=list)
    classes: list[int] | None = None
    accuracy: float | None = None
    options: dict[str, Any] = field(default_factory=dict)
    trains_decoders: bool = True
    reading: AbstractContextManager[Any] = field(default_factory=nullcontext)


def load(name: str) -> Trial:
    """A trial by name, one of `NAMES`."""
    return _LOADERS[name]()


def fitted(trial: Trial, name: str, encoder: EncoderName) -> cl.Lens:
    """One of ours on the model of a trial, from its file; fitted and kept now, if there is none.

    The same when a run goes on, because what was measured knows it by its name alone.

    Args:
        trial: The trial.
        name: Name of the trial.
        encoder: Its encoder, which is also its name on the model.
    """
    folder = finetune.RUNS / "lenses" / f"{name}-{encoder}"
    if folder.is_dir():
        return trial.model.add_clvq(quantizer=cl.load(folder), name=encoder)
    lens = trial.model.add_clvq(*trial.layers, n_codes=trial.n_codes, encoder=encoder, name=encoder)
    lens.fit(trial.train, trial.fit)
    lens.save(folder)
    return lens


def _toy() -> Trial:
    """The toy world, whose concepts are known for every token."""
    model, train = cl.toy.load(n_texts=_N_TOY_TRAIN)
    held_out = cl.toy.generate(_N_TOY_HELD_OUT, seed=1)
    return Trial(
        model=model,
        layers=(1, 3),
        n_codes=256,
        train=train,
        held_out=held_out,
        token_labels=cl.toy.token_labels(held_out),
        fit=cl.FitConfig(n_tokens=300_000, n_evaluations=5),
    )


def _stories() -> Trial:
    """A language model of 260,000 parameters, really trained, on children's stories."""
    train, held_out = data.stories()
    return Trial(
        model=stories_model(),
        layers=(1, 3),
        n_codes=400,
        train=train,
        held_out=[data.cut(story, _STORY_WORDS) for story in held_out],
        fit=cl.FitConfig(n_tokens=600_000, n_evaluations=5, long_texts="truncate"),
    )


def _smollm2(texts: Callable[[], tuple[list[str], list[str]]]) -> Trial:
    """A language model of 135 million parameters, whose activations are read once and kept."""
    train, held_out = texts()
    model = smollm2.model()
    return Trial(
        model=model,
        layers=smollm2.LAYERS,
        n_codes=400,
        train=train,
        held_out=held_out,
        fit=cl.FitConfig(n_tokens=430_000, n_evaluations=5),
        trains_decoders=False,
        reading=kept_activations(model, smollm2.ACTIVATIONS),
    )


def _minilm(name: str) -> Trial:
    """An encoder, fine-tuned for the task, and its own head."""
    texts = data.load(name)
    classifier = finetune.load(texts.task)
    judged = texts.evaluation.sample(_N_TEXTS, seed=0)
    head = cl.head(classifier.weight, classifier.bias, layer=5)
    return Trial(
        model=classifier.model,
        layers=_MINILM_LAYERS,
        n_codes=400,
        train=texts.train.sample(_N_TRAIN, seed=0).texts,
        held_out=texts.evaluation.sample(_N_HELD_OUT, seed=1).texts,
        texts=judged.texts,
        fit=cl.FitConfig(
            n_tokens=300_000,
            n_evaluations=5,
            buffer_tokens=2**18,
            long_texts="truncate",
        ),
        trains_decoders=False,
        classes=judged.classes.tolist() if judged.classes is not None else None,
        accuracy=classifier.metrics["accuracy"][name]["value"],
        reading=kept_activations(classifier.model, finetune.RUNS / "activations" / texts.task),
        options={"documents": judged.documents.tolist(), "readout": head},
    )


def _causal(question: Callable[[], causal.Question]) -> Trial:
    """A causal model, and its own next token in place of a class."""
    asked = question()
    return Trial(
        model=asked.model,
        layers=asked.layers,
        n_codes=asked.n_codes,
        train=asked.train,
        texts=asked.texts[:_N_TEXTS],
        classes=asked.classes[:_N_TEXTS],
        fit=cl.FitConfig(n_tokens=300_000, n_evaluations=5, long_texts="truncate"),
        options={"readout": cl.answers(asked.answers)},
    )


_LOADERS: dict[str, Callable[[], Trial]] = {
    "toy": _toy,
    "stories260K": _stories,
    "wikitext-2": partial(_smollm2, data.wikitext),
    "news": partial(_smollm2, data.news),
    **{name: partial(_minilm, name) for name in data.NAMES},
    "surroundings": partial(_causal, causal.surroundings),
    "pronouns": partial(_causal, causal.pronouns),
}
NAMES = tuple(_LOADERS)
CODES = NAMES[:8]
"""Trials in which codes are compared; the other two only ask whether codes matter to an answer."""
CLASSES = NAMES[4:]
"""Trials whose texts have classes."""
