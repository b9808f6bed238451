"""Effects of removals on probes of sentence vectors: as published, and honestly."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float

from clvq_lens.faithfulness.controls import CONCEPT, RANDOM_DIRECTION, Codes, Removal, project_out
from clvq_lens.faithfulness.effects import UNPERTURBED, Effect, effect
from clvq_lens.faithfulness.folds import Fold
from clvq_lens.faithfulness.probe import (
    LinearProbe,
    MLPProbe,
    Probe,
    fit_linear_probe,
    fit_published_probe,
)
from clvq_lens.faithfulness.reading import LabelledTexts


def published_probes(
    vectors: Float[np.ndarray, "n d"], texts: LabelledTexts, folds: Sequence[Fold], *, seed: int
) -> list[MLPProbe]:
    """An MLP for each fold, stopped early by the very fold that is reported."""
    generator = torch.Generator().manual_seed(seed)
    return [
        fit_published_probe(
            vectors[train],
            texts.labels[train],
            (vectors[test], texts.labels[test]),
            n_classes=len(texts.classes),
            generator=generator,
        )
        for train, test in folds
    ]


def linear_probes(
    vectors: Float[np.ndarray, "n d"], texts: LabelledTexts, folds: Sequence[Fold], *, seed: int
) -> list[LinearProbe]:
    """A logistic probe for each fold; nothing of a reported fold is seen before."""
    return [
        fit_linear_probe(
            vectors[train],
            texts.labels[train],
            texts.documents[train],
            n_classes=len(texts.classes),
            seed=seed,
        )
        for train, _ in folds
    ]


def published_effects(
    vectors: Float[np.ndarray, "n d"],
    texts: LabelledTexts,
    folds: Sequence[Fold],
    probes: Sequence[Probe],
    found: Sequence[Removal],
) -> list[Effect]:
    """Raw code vectors out of sentence vectors, beside one random direction, as in the paper.

    Args:
        vectors: Sentence vectors.
        texts: Their classes.
        folds: Of single texts.
        probes: Of the folds.
        found: The concept and its controls.
    """
    clean = in_probes(vectors, folds, probes)
    effects = [effect(("probe", "", UNPERTURBED), clean[:, None], clean, texts.labels)]
    for removal in found:
        if removal.condition in (CONCEPT, RANDOM_DIRECTION):
            directions = removal.directions[:, :1]  # one draw
            left = removed_from_vectors(vectors, directions, folds, probes, from_mean=False)
            effects.append(effect(("probe", "raw", removal.condition), left, clean, texts.labels))
    return effects


def honest_effects(
    vectors: Float[np.ndarray, "n d"],
    texts: LabelledTexts,
    folds: Sequence[Fold],
    probes: Sequence[LinearProbe],
    found: Sequence[Removal],
    codes: Codes,
) -> list[Effect]:
    """Raw and centred vectors of the concept and of all controls, out of sentence vectors.

    Args:
        vectors: Sentence vectors.
        texts: Their classes and documents.
        folds: Of whole documents.
        probes: Of the folds.
        found: The concept and its controls.
        codes: The codebook.
    """
    clean = in_probes(vectors, folds, probes)
    right = (clean.argmax(1) == texts.labels).astype(float)
    effects = [effect(("probe", "", UNPERTURBED), clean[:, None], clean, texts.labels, right)]
    for name, from_mean in (("raw", False), ("centred", True)):
        for removal in found:
            directions = codes.centered(removal) if from_mean else removal.directions
            left = removed_from_vectors(vectors, directions, folds, probes, from_mean=from_mean)
            again = retrained_without(
                vectors, directions[:, 0], texts, folds, probes, from_mean=from_mean
            )
            named = ("probe", name, removal.condition)
            effects.append(effect(named, left, clean, texts.labels, again))
    return effects


def in_probes(
    vectors: Float[np.ndarray, "n d"], folds: Sequence[Fold], probes: Sequence[Probe]
) -> Float[np.ndarray, "n c"]:
    """Probabilities of classes for every text, from the probe that did not see it."""
    pairs = zip(folds, probes, strict=True)
    return _joined(folds, [probe.probabilities(vectors[test]) for (_, test), probe in pairs])


def removed_from_vectors(
    vectors: Float[np.ndarray, "n d"],
    directions: Float[np.ndarray, "n draws d"],
    folds: Sequence[Fold],
    probes: Sequence[Probe],
    *,
    from_mean: bool,
) -> Float[np.ndarray, "n draws c"]:
    """Probabilities of classes with directions projected out, by probes of unperturbed vectors."""
    parts = []
    for (train, test), probe in zip(folds, probes, strict=True):
        left = project_out(vectors[test], directions[test], _origin(vectors[train], from_mean))
        parts.append(probe.probabilities(left))
    return _joined(folds, parts)


def retrained_without(
    vectors: Float[np.ndarray, "n d"],
    directions: Float[np.ndarray, "n d"],
    texts: LabelledTexts,
    folds: Sequence[Fold],
    probes: Sequence[LinearProbe],
    *,
    from_mean: bool,
) -> Float[np.ndarray, " n"]:
    """Whether probes fitted on vectors without the directions predict the label of other such.

    If they do, the information is still there: predictions of the old probe moved, but nothing was
    lost. What each text loses may itself tell its class, so this is an upper limit.
    """
    right = np.empty(len(vectors))
    n_classes = len(texts.classes)
    for (train, test), probe in zip(folds, probes, strict=True):
        origin = _origin(vectors[train], from_mean)
        left = project_out(vectors, directions[:, None], origin)[:, 0]
        again = fit_linear_probe(
            left[train],
            texts.labels[train],
            texts.documents[train],
            n_classes=n_classes,
            penalty=probe.penalty,
        )
        right[test] = again.probabilities(left[test]).argmax(-1) == texts.labels[test]
    return right


def _joined(folds: Sequence[Fold], parts: Sequence[np.ndarray]) -> np.ndarray:
    """What was found of the texts of each fold, in the order of all texts."""
    found = np.empty((sum(map(len, parts)), *parts[0].shape[1:]))
    for (_, test), part in zip(folds, parts, strict=True):
        found[test] = part
    return found


def _origin(vectors: Float[np.ndarray, "n d"], from_mean: bool) -> Float[np.ndarray, " d"]:
    return vectors.mean(0) if from_mean else np.zeros(vectors.shape[1])
