"""Probes: what they are worth on data whose answer is known."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from clvq_lens.errors import DataError
from clvq_lens.faithfulness.effect_tables import tabulate
from clvq_lens.faithfulness.effects import effect
from clvq_lens.faithfulness.probes import fit_linear_probe, fit_published_probe


def separable(n_classes: int = 2, n: int = 90) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    classes = np.arange(n) % n_classes
    vectors = random.standard_normal((n, 5)) + 4 * np.eye(5)[classes] + 100
    return vectors, classes, np.arange(n)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_linear_probe_is_the_regression_of_scikit_learn_as_one_affine_map(n_classes):
    vectors, classes, documents = separable(n_classes)
    probe = fit_linear_probe(vectors, classes, documents, n_classes=n_classes, penalty=0.1)
    other = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=300))
    expected = other.fit(vectors, classes).predict_proba(vectors)
    assert np.allclose(probe.probabilities(vectors), expected, atol=1e-6)


def test_the_penalty_is_chosen_by_inner_folds_of_whole_documents():
    vectors, classes, documents = separable()
    noise = np.random.default_rng(1).standard_normal(vectors.shape)
    weak = fit_linear_probe(vectors, classes, documents, n_classes=2).penalty
    strong = fit_linear_probe(noise, classes, documents, n_classes=2).penalty
    assert strong < weak  # where there is nothing to learn, as little as possible is learned


def test_too_few_documents_to_choose_by_take_the_middle_penalty():
    vectors, classes, _ = separable(n=4)
    probe = fit_linear_probe(vectors, classes, np.zeros(4, dtype=int), n_classes=2)
    assert probe.penalty == 1e-2


def test_two_texts_of_each_class_are_too_few_to_choose_by_and_enough_for_a_probe():
    vectors = np.array([[0.0, 1.0], [0.1, 1.0], [1.0, 0.0], [1.0, 0.1]])
    classes, documents = np.array([0, 0, 1, 1]), np.arange(4)
    probe = fit_linear_probe(vectors, classes, documents, n_classes=2)
    assert probe.probabilities(vectors).argmax(1).tolist() == [0, 0, 1, 1]


def test_the_published_probe_learns_and_keeps_its_best_epoch():
    vectors, classes, _ = separable()
    vectors = vectors - 100
    options = {"n_classes": 2, "generator": torch.Generator().manual_seed(0)}
    rows = np.arange(len(classes))
    probe = fit_published_probe(vectors, classes, (vectors, classes), **options)
    assert probe.probabilities(vectors)[rows, classes].mean() > 0.95
    # Watching the wrong classes it gets worse from the first epoch on, and that one is kept.
    options |= {"n_epochs": 60, "patience": 60}
    early = fit_published_probe(vectors, classes, (vectors, 1 - classes), **options)
    assert early.probabilities(vectors)[rows, classes].mean() < 0.8


def test_fitting_a_probe_leaves_the_global_generator_alone():
    vectors, classes, _ = separable(n=12)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    options = {"n_classes": 2, "generator": torch.Generator().manual_seed(0), "n_epochs": 1}
    fit_published_probe(vectors, classes, (vectors, classes), **options)
    assert torch.equal(torch.rand(1), expected)


def test_a_missing_class_is_refused():
    vectors, classes, documents = separable()
    with pytest.raises(DataError, match="Class number 2 has no text in the training part"):
        fit_linear_probe(vectors, classes, documents, n_classes=3)


# ---- effects and their table ---------------------------------------------------------------------

CLASSES = np.array([0, 0, 1, 1])
CLEAN = np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.8, 0.2]])  # the last is wrong


def table(*probabilities: np.ndarray):
    names = ("concept", "random code")
    effects = [effect(("probe", "", "unperturbed"), CLEAN[:, None], CLEAN, CLASSES)]
    effects += [
        effect(("probe", "raw", name), each, CLEAN, CLASSES)
        for name, each in zip(names, probabilities, strict=True)
    ]
    tables = tabulate(effects, np.arange(4), np.array([0, 1, 1, 2]))
    return tables.conditions.set_index("condition"), tables.contrasts.set_index("control")


def test_a_removal_that_changes_nothing_has_no_effect():
    conditions, contrasts = table(CLEAN[:, None], CLEAN[:, None])
    assert conditions.loc["unperturbed", "accuracy"] == 0.75
    assert conditions.loc["concept", ["drop", "drop_low", "drop_high", "changed"]].eq(0).all()
    assert contrasts.loc["random code", "drop"] == 0


def test_turned_probabilities_flip_every_prediction():
    conditions, contrasts = table(CLEAN[:, None, ::-1], CLEAN[:, None])
    assert conditions.loc["concept", "accuracy"] == 0.25
    assert conditions.loc["concept", "changed"] == 1
    assert contrasts.loc["random code", "accuracy"] == 0.5


def test_the_drop_is_signed_and_of_the_class():
    """By hand: the probability of the class falls by 0.4, 0.2, -0.1 and 0.1 in the four texts."""
    left = np.array([[0.5, 0.5], [0.4, 0.6], [0.2, 0.8], [0.9, 0.1]])
    conditions, _ = table(left[:, None], CLEAN[:, None])
    assert conditions.loc["concept", "drop"] == pytest.approx(0.15)
    # The common wrong variant, the fall of the predicted class, would be 0.4, 0.2, -0.1, -0.1.
    assert conditions.loc["concept", "drop"] != pytest.approx(0.1)


def test_draws_are_averaged_text_by_text():
    draws = np.stack([CLEAN, CLEAN[:, ::-1]], axis=1)
    conditions, _ = table(draws, draws)
    assert conditions.loc["concept", "accuracy"] == 0.5
    assert conditions.loc["concept", "changed"] == 0.5
