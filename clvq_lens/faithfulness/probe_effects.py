"""Effects of removals on probes of sentence vectors: as published, and honestly."""

from collections.abc import Sequence
from itertools import product

import numpy as np
from jaxtyping import Float
from tqdm.auto import tqdm

from clvq_lens.faithfulness.classified_texts import ClassifiedTexts
from clvq_lens.faithfulness.controls import (
    CONCEPT,
    RANDOM_DIRECTION,
    Removal,
    WeightedCodebook,
    without_directions,
)
from clvq_lens.faithfulness.effects import UNPERTURBED, Effect, effect
from clvq_lens.faithfulness.folds import Fold
from clvq_lens.faithfulness.probes import LinearProbe, Probe, fit_linear_probe


def published_effects(
    vectors: Float[np.ndarray, "n d"],
    texts: ClassifiedTexts,
    folds: Sequence[Fold],
    probes: Sequence[Probe],
    removals: Sequence[Removal],
) -> list[Effect]:
    """Raw code vectors out of sentence vectors, beside one random direction, as in the paper.

    Args:
        vectors: Sentence vectors.
        texts: The classes of the texts.
        folds: Folds of single texts.
        probes: One for each fold.
        removals: The concept and its controls.
    """
    clean = in_probes(vectors, folds, probes)
    effects = [effect(("probe", "", UNPERTURBED), clean[:, None], clean, texts.classes)]
    for removal in removals:
        if removal.condition in (CONCEPT, RANDOM_DIRECTION):
            directions = removal.directions[:, :1]  # the paper draws each direction once
            left = removed_from_vectors(vectors, directions, folds, probes, from_mean=False)
            effects.append(effect(("probe", "raw", removal.condition), left, clean, texts.classes))
    return effects


def honest_effects(
    vectors: Float[np.ndarray, "n d"],
    texts: ClassifiedTexts,
    folds: Sequence[Fold],
    probes: Sequence[LinearProbe],
    removals: Sequence[Removal],
    codebook: WeightedCodebook,
    *,
    progress: bool,
) -> list[Effect]:
    """Raw and centered vectors of the concept and of all controls, out of sentence vectors.

    Args:
        vectors: Sentence vectors.
        texts: The classes and documents of the texts.
        folds: Folds of whole documents.
        probes: One for each fold.
        removals: The concept and its controls.
        codebook: The codebook.
        progress: Whether to show a progress bar.
    """
    clean = in_probes(vectors, folds, probes)
    right = (clean.argmax(1) == texts.classes).astype(float)
    # Without a removal a fitted probe and one fitted again are the same probe.
    effects = [effect(("probe", "", UNPERTURBED), clean[:, None], clean, texts.classes, right)]
    ablations = list(product((("raw", False), ("centered", True)), removals))
    for (ablation, from_mean), removal in tqdm(
        ablations, desc="probes", unit="removal", disable=not progress
    ):
        directions = codebook.centered(removal) if from_mean else removal.directions
        left = removed_from_vectors(vectors, directions, folds, probes, from_mean=from_mean)
        # Fitting again is slow, so it is done for the first draw alone.
        again = retrained_without(
            vectors, directions[:, 0], texts, folds, probes, from_mean=from_mean
        )
        name = ("probe", ablation, removal.condition)
        effects.append(effect(name, left, clean, texts.classes, again))
    return effects


def in_probes(
    vectors: Float[np.ndarray, "n d"], folds: Sequence[Fold], probes: Sequence[Probe]
) -> Float[np.ndarray, "n c"]:
    """Probabilities of classes for every text, from the probe that did not see it."""
    of_folds: list[np.ndarray] = []
    for (_, test), probe in zip(folds, probes, strict=True):
        of_folds.append(probe.probabilities(vectors[test]))
    return _joined(folds, of_folds)


def removed_from_vectors(
    vectors: Float[np.ndarray, "n d"],
    directions: Float[np.ndarray, "n draws d"],
    folds: Sequence[Fold],
    probes: Sequence[Probe],
    *,
    from_mean: bool,
) -> Float[np.ndarray, "n draws c"]:
    """Probabilities of classes with directions projected out, by probes of unperturbed vectors."""
    of_folds: list[np.ndarray] = []
    for (train, test), probe in zip(folds, probes, strict=True):
        # The mean of training texts alone: a tested text must not move its own origin.
        origin = _origin(vectors[train], from_mean)
        left = without_directions(vectors[test], directions[test], origin)
        of_folds.append(probe.probabilities(left))
    return _joined(folds, of_folds)


def retrained_without(
    vectors: Float[np.ndarray, "n d"],
    directions: Float[np.ndarray, "n d"],
    texts: ClassifiedTexts,
    folds: Sequence[Fold],
    probes: Sequence[LinearProbe],
    *,
    from_mean: bool,
) -> Float[np.ndarray, " n"]:
    """Whether probes fitted on vectors without the directions predict the class of other such.

    If they do, the information is still there: predictions of the old probe moved, but nothing was
    lost. What each text loses may itself tell its class, so this is an upper limit.
    """
    right = np.empty(len(vectors))
    n_classes = len(texts.class_names)
    for (train, test), probe in zip(folds, probes, strict=True):
        origin = _origin(vectors[train], from_mean)
        left = without_directions(vectors, directions[:, None], origin)[:, 0]
        again = fit_linear_probe(
            left[train],
            texts.classes[train],
            texts.documents[train],
            n_classes=n_classes,
            penalty=probe.penalty,  # as strong as before, so that only the vectors differ
        )
        right[test] = again.probabilities(left[test]).argmax(-1) == texts.classes[test]
    return right


def _joined(folds: Sequence[Fold], of_folds: Sequence[np.ndarray]) -> np.ndarray:
    """Results of the folds in the order of all texts."""
    n_texts = sum(len(of_fold) for of_fold in of_folds)
    joined = np.empty((n_texts, *of_folds[0].shape[1:]))
    for (_, test), of_fold in zip(folds, of_folds, strict=True):
        joined[test] = of_fold
    return joined


def _origin(vectors: Float[np.ndarray, "n d"], from_mean: bool) -> Float[np.ndarray, " d"]:
    return vectors.mean(0) if from_mean else np.zeros(vectors.shape[1])
