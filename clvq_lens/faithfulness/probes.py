"""Probes: small classifiers of sentence vectors, fitted as published and as a skeptic would."""

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.special import softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from clvq_lens.errors import DataError
from clvq_lens.faithfulness.classified_texts import ClassifiedTexts
from clvq_lens.faithfulness.folds import Fold

_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # inverse strengths that the inner folds choose among
_INNER_FOLDS = 3


@runtime_checkable
class Probe(Protocol):
    """A fitted classifier of vectors."""

    def probabilities(self, vectors: Float[np.ndarray, "*n d"]) -> Float[np.ndarray, "*n c"]:
        """The probability of each class."""
        ...


@dataclass(frozen=True)
class LinearProbe:
    """Multinomial logistic regression: logits = W h + b.

    Attributes:
        weight: W.
        bias: b.
        penalty: Inverse strength of the L2 penalty, chosen inside the training texts.
    """

    weight: Float[np.ndarray, "c d"]
    bias: Float[np.ndarray, " c"]
    penalty: float

    def probabilities(self, vectors: Float[np.ndarray, "*n d"]) -> Float[np.ndarray, "*n c"]:
        """The probability of each class."""
        return softmax(vectors @ self.weight.T + self.bias, axis=-1)


@dataclass(frozen=True)
class MLPProbe:
    """The published probe: one hidden layer of 64, dropout 0.2 while it is fitted."""

    network: nn.Module

    @torch.no_grad()
    def probabilities(self, vectors: Float[np.ndarray, "*n d"]) -> Float[np.ndarray, "*n c"]:
        """The probability of each class."""
        return self.network(torch.as_tensor(vectors).float()).softmax(-1).numpy()


def fit_linear_probe(
    vectors: Float[np.ndarray, "n d"],
    classes: Int[np.ndarray, " n"],
    documents: Int[np.ndarray, " n"],
    *,
    n_classes: int,
    penalty: float | None = None,
    seed: int = 0,
) -> LinearProbe:
    """A logistic probe whose penalty is chosen inside these texts alone (nested cross-validation).

    Args:
        vectors: One for each text.
        classes: The class of each text, from 0.
        documents: Which document each text is from; inner folds keep documents whole.
        n_classes: How many classes there are.
        penalty: Inverse strength; None: chosen by the log-likelihood in inner folds.
        seed: Random seed for the inner folds.

    Raises:
        DataError: If a class is missing.
    """
    check_classes(classes, n_classes)
    if penalty is None:
        penalty = _chosen_penalty(vectors, classes, documents, n_classes, seed)
    return _affine(_fitted(_pipeline(penalty), vectors, classes), penalty)


def _chosen_penalty(
    vectors: np.ndarray, classes: np.ndarray, documents: np.ndarray, n_classes: int, seed: int
) -> float:
    """The penalty that predicts best in inner folds; the middle one if they are too small."""
    folds = StratifiedGroupKFold(_INNER_FOLDS, shuffle=True, random_state=seed % 2**32)
    inner: list[Fold] = []
    rarest = np.bincount(classes, minlength=n_classes).min()
    if min(rarest, np.unique(documents).size) >= _INNER_FOLDS:
        inner = list(folds.split(vectors, classes, documents))
    if not inner or not _hold_all_classes(inner, classes, n_classes):
        return _PENALTIES[len(_PENALTIES) // 2]
    search = GridSearchCV(
        _pipeline(1.0),
        {"logisticregression__C": _PENALTIES},
        cv=inner,
        scoring="neg_log_loss",
        refit=False,
    )
    return float(_fitted(search, vectors, classes).best_params_["logisticregression__C"])


def _hold_all_classes(folds: Sequence[Fold], classes: np.ndarray, n_classes: int) -> bool:
    """Whether every part of every fold has texts of every class, as the log-likelihood needs."""
    for train, test in folds:
        if len(np.unique(classes[train])) < n_classes or len(np.unique(classes[test])) < n_classes:
            return False
    return True


def _pipeline(penalty: float) -> Any:
    # Scaled first: the penalty would weigh on directions by how large activations are in them.
    return make_pipeline(StandardScaler(), LogisticRegression(C=penalty, max_iter=300))


def _fitted(estimator: Any, vectors: np.ndarray, classes: np.ndarray) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a nearly converged probe serves
        return estimator.fit(vectors, classes)


def _affine(pipeline: Any, penalty: float) -> LinearProbe:
    """Scaling and regression as one affine map, with a row for each class."""
    scaler, regression = pipeline
    weight = regression.coef_ / scaler.scale_
    bias = regression.intercept_ - weight @ scaler.mean_
    if len(weight) == 1:  # of two classes, scikit-learn keeps the difference only
        weight = np.concatenate([-weight, weight]) / 2
        bias = np.concatenate([-bias, bias]) / 2
    return LinearProbe(weight, bias, penalty)


def fit_published_probe(
    vectors: Float[np.ndarray, "n d"],
    classes: Int[np.ndarray, " n"],
    watched: tuple[Float[np.ndarray, "m d"], Int[np.ndarray, " m"]],
    *,
    n_classes: int,
    generator: torch.Generator,
    n_epochs: int = 100,
    patience: int = 5,
    batch_size: int = 32,
) -> MLPProbe:
    """The probe of the paper's code: an MLP by Adam at 1e-3, stopped early.

    Args:
        vectors: One for each text.
        classes: The class of each text, from 0.
        watched: Vectors and classes that early stopping looks at: in the published protocol the
            very fold that is reported, which flatters.
        n_classes: How many classes there are.
        generator: Seeds the weights, the order of texts and dropout.
        n_epochs: Epochs at most.
        patience: Epochs without a better loss after which it stops.
        batch_size: Texts of a step.

    Raises:
        DataError: If a class is missing.
    """
    check_classes(classes, n_classes)
    x, y = torch.as_tensor(vectors).float(), torch.as_tensor(classes)
    x_watched, y_watched = torch.as_tensor(watched[0]).float(), torch.as_tensor(watched[1])
    with torch.random.fork_rng(devices=[]):  # torch's layers and dropout use the global state
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        network = nn.Sequential(
            nn.Linear(x.shape[1], 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, n_classes)
        )
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
        best = copy.deepcopy(network)
        best_loss, n_worse = float("inf"), 0
        for _ in range(n_epochs):
            _train_epoch(network, optimizer, x, y, batch_size)
            with torch.no_grad():
                loss = float(F.cross_entropy(network.eval()(x_watched), y_watched))
            n_worse += 1
            if loss < best_loss:
                # A copy: the next epoch changes these weights in place.
                best = copy.deepcopy(network)
                best_loss, n_worse = loss, 0
            if n_worse == patience:
                break
    return MLPProbe(best.eval())


def _train_epoch(
    network: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, batch_size: int
) -> None:
    network.train()
    for index in torch.randperm(len(x)).split(batch_size):
        optimizer.zero_grad()
        F.cross_entropy(network(x[index]), y[index]).backward()
        optimizer.step()


def linear_probes(
    vectors: Float[np.ndarray, "n d"], texts: ClassifiedTexts, folds: Sequence[Fold], *, seed: int
) -> list[LinearProbe]:
    """A logistic probe for each fold; nothing of a reported fold is seen before."""
    probes: list[LinearProbe] = []
    for train, _ in folds:
        probe = fit_linear_probe(
            vectors[train],
            texts.classes[train],
            texts.documents[train],
            n_classes=len(texts.class_names),
            seed=seed,
        )
        probes.append(probe)
    return probes


def published_probes(
    vectors: Float[np.ndarray, "n d"], texts: ClassifiedTexts, folds: Sequence[Fold], *, seed: int
) -> list[MLPProbe]:
    """An MLP for each fold, stopped early by the very fold that is reported."""
    generator = torch.Generator().manual_seed(seed)  # one for all folds, so that they differ
    probes: list[MLPProbe] = []
    for train, test in folds:
        probe = fit_published_probe(
            vectors[train],
            texts.classes[train],
            (vectors[test], texts.classes[test]),
            n_classes=len(texts.class_names),
            generator=generator,
        )
        probes.append(probe)
    return probes


def check_classes(classes: Int[np.ndarray, " n"], n_classes: int) -> None:
    """Raises `DataError` if a class is missing among the classes of a fold."""
    missing = np.setdiff1d(np.arange(n_classes), classes)
    if len(missing):
        raise DataError(
            f"Class number {missing[0]} has no text in the training part of a fold, so that no "
            f"probe can learn it. Pass more texts (or documents) of that class, or fewer folds."
        )
