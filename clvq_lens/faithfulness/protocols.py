"""Faithfulness as published, and as a sceptic would accept it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int

from clvq_lens.config import closest
from clvq_lens.errors import ConfigError, DataError
from clvq_lens.faithfulness.controls import Codes, Removal, removals
from clvq_lens.faithfulness.effects import UNPERTURBED, Effect, effect
from clvq_lens.faithfulness.folds import Fold, Protocol, make_folds
from clvq_lens.faithfulness.in_model import Group, batches_of, in_model
from clvq_lens.faithfulness.probing import honest_effects, linear_probe, published_effects
from clvq_lens.faithfulness.reading import Cut, LabelledTexts, Reading, read_texts
from clvq_lens.faithfulness.result import Faithfulness, tabulate
from clvq_lens.host.attach import Attachment
from clvq_lens.interventions.readout import Readout, Sentence, head, read_classes
from clvq_lens.interventions.salience import salience

_N_FOLDS = {"honest": 5, "paper": 20}


@dataclass(frozen=True, kw_only=True)
class _Options:
    """What both protocols need to know; see `faithfulness`."""

    sentence: Sentence
    n_folds: int
    n_draws: int
    n_model_draws: int
    n_steps: int
    n_replicates: int
    long_texts: Cut
    seed: int
    progress: bool


@dataclass(frozen=True)
class _Salient:
    """The most salient token of each text, and what the model says of the text."""

    positions: Int[np.ndarray, " n"]
    codes: Int[np.ndarray, " n"]
    tokens: tuple[str, ...]
    probabilities: Float[np.ndarray, "n c"]
    completeness_error: float


def faithfulness(
    attachment: Attachment,
    texts: Sequence[str],
    labels: Sequence[Any],
    *,
    protocol: Protocol = "honest",
    documents: Sequence[Any] | None = None,
    readout: Readout | None = None,
    sentence: Sentence | None = None,
    n_folds: int | None = None,
    n_draws: int = 10,
    n_model_draws: int = 3,
    n_steps: int = 16,
    n_replicates: int = 1_000,
    long_texts: Cut = "error",
    seed: int = 0,
    progress: bool = True,
) -> Faithfulness:
    """Whether predictions about texts depend on their concepts; see `clvq_lens.Lens.faithfulness`.

    Raises:
        ConfigError: If there is no such protocol, or fewer than two folds or one draw.
        DataError: If texts, labels and documents do not fit together, or a class has too few.
    """
    if protocol not in get_args(Protocol):
        hint = closest(str(protocol), list(get_args(Protocol)))
        raise ConfigError(f"There is no protocol {protocol!r}. {hint}Pass 'honest' or 'paper'.")
    options = _Options(
        sentence=sentence or ("last" if attachment.host.causal else "cls"),
        n_folds=n_folds or _N_FOLDS[protocol],
        n_draws=n_draws,
        n_model_draws=min(n_model_draws, n_draws),
        n_steps=n_steps,
        n_replicates=n_replicates,
        long_texts=long_texts,
        seed=seed,
        progress=progress,
    )
    if options.n_folds < 2 or options.n_model_draws < 1:
        raise ConfigError(
            f"n_folds is {n_folds}, n_draws {n_draws} and n_model_draws {n_model_draws}; pass two "
            f"folds or more, and at least one draw of each control."
        )
    labelled = LabelledTexts.of(texts, labels, documents)
    reading = read_texts(
        attachment, texts, sentence=options.sentence, long_texts=options.long_texts
    )
    folds = make_folds(labelled, protocol, n_folds=options.n_folds, seed=seed)
    groups = _groups(attachment, labelled, reading, folds, readout, options)
    salient = _salient(attachment, labelled, reading, groups, options)
    codes = Codes.of(attachment.quantizer)
    random = np.random.default_rng(seed)
    found = removals(salient.codes, reading, labelled.labels, codes, n_draws=n_draws, random=random)
    if protocol == "paper":
        effects = published_effects(reading.source, labelled, folds, found, seed=seed)
    else:
        effects = [
            *honest_effects(reading.source, labelled, folds, found, codes, seed=seed),
            *_in_the_model(attachment, labelled, reading, groups, found, salient, options),
        ]
    return _result(protocol, labelled, salient, effects, options)


def _groups(
    attachment: Attachment,
    texts: LabelledTexts,
    reading: Reading,
    folds: Sequence[Fold],
    readout: Readout | None,
    options: _Options,
) -> list[Group]:
    """Who reads which texts: the given readout all, or each fold's probe of the last layer."""
    if readout is not None:
        return [Group(np.arange(len(texts)), readout)]
    last = attachment.host.resolve(attachment.host.n_layers - 1)
    groups = []
    for train, test in folds:
        probe = linear_probe(reading.last, texts, train, seed=options.seed)
        weight, bias = (torch.as_tensor(part).float() for part in (probe.weight, probe.bias))
        groups.append(Group(test, head(weight, bias, at=last, sentence=options.sentence)))
    return groups


def _salient(
    attachment: Attachment,
    texts: LabelledTexts,
    reading: Reading,
    groups: Sequence[Group],
    options: _Options,
) -> _Salient:
    """Integrated gradients of the predicted class, and the code where they are largest."""
    n = len(texts)
    positions, tokens = np.empty(n, dtype=int), [""] * n
    probabilities, errors = np.empty((n, len(texts.classes))), np.empty(n)
    for group in groups:
        scores = salience(
            attachment.host.model,
            [texts.texts[row] for row in group.rows],
            attachment.source,
            group.readout,
            n_steps=options.n_steps,
            long_texts=options.long_texts,
            progress=options.progress,
        )
        top = scores.top()
        positions[group.rows[top["text"]]] = top["position"]
        errors[group.rows] = scores.completeness_errors
        for row, token in zip(top["text"], top["token"], strict=True):
            tokens[group.rows[row]] = token
        for rows, batch in batches_of(attachment.host, group, texts.texts, options.long_texts):
            logits = read_classes(attachment.host, group.readout, batch)
            _check_n_classes(logits.shape[1], texts)
            probabilities[rows] = logits.double().softmax(-1).cpu().numpy()
    codes = [
        of_text[np.flatnonzero(where == position)[0]]
        for of_text, where, position in zip(
            reading.codes, reading.positions, positions, strict=True
        )
    ]
    error = float(np.median(errors))
    return _Salient(positions, np.array(codes), tuple(tokens), probabilities, error)


def _check_n_classes(n: int, texts: LabelledTexts) -> None:
    if n != len(texts.classes):
        raise DataError(
            f"The readout knows {n} classes, but the labels are {list(texts.classes)}. Give it a "
            f"logit for each of them, in sorted order."
        )


def _result(
    protocol: Protocol,
    texts: LabelledTexts,
    salient: _Salient,
    effects: Sequence[Effect],
    options: _Options,
) -> Faithfulness:
    conditions, contrasts = tabulate(
        effects, texts.documents, n_replicates=options.n_replicates, seed=options.seed
    )
    shares = np.bincount(texts.labels) / len(texts)
    return Faithfulness(
        protocol=protocol,
        n_texts=len(texts),
        n_documents=len(np.unique(texts.documents)),
        n_folds=options.n_folds,
        chance=float(shares.max()),
        floor=float(shares.min()),
        completeness_error=salient.completeness_error,
        conditions=conditions,
        contrasts=contrasts,
        texts=pd.DataFrame(
            {
                "document": texts.documents,
                "label": np.array(texts.classes, dtype=object)[texts.labels],
                "predicted": np.array(texts.classes, dtype=object)[salient.probabilities.argmax(1)],
                "position": salient.positions,
                "token": salient.tokens,
                "code": salient.codes,
            }
        ),
    )


def _in_the_model(
    attachment: Attachment,
    texts: LabelledTexts,
    reading: Reading,
    groups: Sequence[Group],
    found: Sequence[Removal],
    salient: _Salient,
    options: _Options,
) -> list[Effect]:
    """The same in the running model, and codes taken out of it."""
    said = salient.probabilities
    return [
        effect(("model", "", UNPERTURBED), said[:, None], said, texts.labels),
        *in_model(
            attachment,
            texts,
            groups,
            found,
            reading.source.mean(0),
            said,
            sentence=options.sentence,
            n_draws=options.n_model_draws,
            long_texts=options.long_texts,
            progress=options.progress,
        ),
    ]
