"""A case: labelled texts with all that does not depend on codes, so that many can be judged."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch
from jaxtyping import Float, Int

from clvq_lens.arguments import check_choice, check_count, check_is, check_seed
from clvq_lens.errors import DataError
from clvq_lens.faithfulness.folds import Fold, Protocol, make_folds
from clvq_lens.faithfulness.groups import Group, batches_of
from clvq_lens.faithfulness.probe import LinearProbe, MLPProbe
from clvq_lens.faithfulness.probing import linear_probes, published_probes
from clvq_lens.faithfulness.reading import LabelledTexts, SentenceVectors, read_vectors
from clvq_lens.host.host import Host
from clvq_lens.interventions.readout import Readout, Sentence, head, read_classes
from clvq_lens.interventions.salience import Cut, salience


@dataclass(frozen=True)
class Salient:
    """The most salient token of each text, and what the model says of the text.

    Attributes:
        positions: Where the token stands.
        tokens: Its text.
        probabilities: Of classes, by the readout.
        completeness_error: Median over texts.
    """

    positions: Int[np.ndarray, " n"]
    tokens: tuple[str, ...]
    probabilities: Float[np.ndarray, "n c"]
    completeness_error: float


@dataclass(frozen=True, kw_only=True)
class Case:
    """Labelled texts, their vectors at a hook point, probes of them, and their salient tokens.

    Attributes:
        host: The model.
        source: The hook point.
        protocol: "honest" or "paper".
        texts: Texts, classes and documents.
        sentence: How a text becomes one vector.
        vectors: The vectors.
        folds: Of the cross-validation.
        probes: One for each fold, of vectors at the source.
        groups: Who reads which texts in the model.
        salient: Tokens.
        long_texts: What is done with a text beyond the context.
    """

    host: Host
    source: str
    protocol: Protocol
    texts: LabelledTexts
    sentence: Sentence
    vectors: SentenceVectors
    folds: list[Fold]
    probes: list[LinearProbe] | list[MLPProbe]
    groups: list[Group]
    salient: Salient
    long_texts: Cut


def prepare(
    host: Host,
    source: str,
    texts: Iterable[str],
    labels: Iterable[Any],
    *,
    protocol: Protocol = "honest",
    documents: Iterable[Any] | None = None,
    readout: Readout | None = None,
    sentence: Sentence | None = None,
    n_folds: int | None = None,
    n_steps: int = 16,
    long_texts: Cut = "error",
    seed: int = 0,
    progress: bool = True,
) -> Case:
    """Reads the texts, fits probes, and finds salient tokens; see `clvq_lens.Lens.faithfulness`.

    Raises:
        ConfigError: If there is no such protocol, or fewer than two folds.
        DataError: If texts, labels, documents and readout do not fit together, or a class has too
            few documents.
        EmptyCorpusError: If a text holds no real token.
        TextTooLongError: If a text is longer than the model's context.
    """
    check_choice("protocol", protocol, get_args(Protocol))
    check_is("readout", readout, Readout | None, "Pass clvq_lens.head(...) or answers(...).")
    if sentence is not None:
        check_choice("sentence", sentence, get_args(Sentence))
    if n_folds is not None:
        check_count("n_folds", n_folds, least=2)
    check_count("n_steps", n_steps)
    check_seed(seed)
    sentence = sentence or ("last" if host.causal else "cls")
    labelled = LabelledTexts.of(texts, labels, documents)
    folds = make_folds(labelled, protocol, n_folds=n_folds, seed=seed)
    vectors = read_vectors(host, source, labelled.texts, sentence=sentence, long_texts=long_texts)
    fit_probes = published_probes if protocol == "paper" else linear_probes
    groups = [Group(np.arange(len(labelled)), readout)] if readout is not None else None
    groups = groups or _probed(host, labelled, vectors.last, folds, sentence, seed)
    return Case(
        host=host,
        source=source,
        protocol=protocol,
        texts=labelled,
        sentence=sentence,
        vectors=vectors,
        folds=folds,
        probes=fit_probes(vectors.source, labelled, folds, seed=seed),
        groups=groups,
        salient=_salient(host, source, labelled, groups, n_steps, long_texts, progress),
        long_texts=long_texts,
    )


def _probed(
    host: Host,
    texts: LabelledTexts,
    last: Float[np.ndarray, "n d"],
    folds: Sequence[Fold],
    sentence: Sentence,
    seed: int,
) -> list[Group]:
    """Each fold read by a probe of the last layer that did not see it."""
    at = host.resolve(host.n_layers - 1)
    groups = []
    for (_, test), probe in zip(folds, linear_probes(last, texts, folds, seed=seed), strict=True):
        weight, bias = (torch.as_tensor(part).float() for part in (probe.weight, probe.bias))
        groups.append(Group(test, head(weight, bias, at=at, sentence=sentence)))
    return groups


def _salient(
    host: Host,
    source: str,
    texts: LabelledTexts,
    groups: Sequence[Group],
    n_steps: int,
    long_texts: Cut,
    progress: bool,
) -> Salient:
    """Where integrated gradients of the predicted class are largest."""
    n = len(texts)
    positions, tokens = np.empty(n, dtype=np.int64), [""] * n
    probabilities, errors = np.empty((n, len(texts.classes))), np.empty(n)
    for group in groups:
        scores = salience(
            host.model,
            [texts.texts[row] for row in group.rows],
            source,
            group.readout,
            n_steps=n_steps,
            long_texts=long_texts,
            progress=progress,
        )
        top = scores.top()
        positions[group.rows[top["text"]]] = top["position"]
        errors[group.rows] = scores.completeness_errors
        for row, token in zip(group.rows[top["text"]], top["token"], strict=True):
            tokens[row] = token
        for rows, batch in batches_of(host, group, texts.texts, long_texts):
            logits = read_classes(host, group.readout, batch)
            _check_n_classes(logits.shape[1], texts)
            probabilities[rows] = logits.double().softmax(-1).cpu().numpy()
    return Salient(positions, tuple(tokens), probabilities, float(np.median(errors)))


def _check_n_classes(n: int, texts: LabelledTexts) -> None:
    if n != len(texts.classes):
        raise DataError(
            f"The readout knows {n} classes, but the labels are {list(texts.classes)}. Give it a "
            f"logit for each of them, in sorted order."
        )
