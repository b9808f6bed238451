"""Folds of texts: whole documents, or single texts as published."""

from typing import Literal

import numpy as np
from jaxtyping import Int
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from clvq_lens.errors import DataError
from clvq_lens.faithfulness.reading import LabelledTexts

Protocol = Literal["honest", "paper"]
Fold = tuple[Int[np.ndarray, " _"], Int[np.ndarray, " _"]]
"""Rows to fit on, and rows to report."""
_N_FOLDS = {"honest": 5, "paper": 20}


def make_folds(
    texts: LabelledTexts, protocol: Protocol, *, n_folds: int | None, seed: int
) -> list[Fold]:
    """Folds of whole documents; as published: of single texts.

    Args:
        texts: Their classes and documents.
        protocol: Which of the two.
        n_folds: How many; None: 5, as published 20, or as many as the rarest class allows.
        seed: Of the folds.

    Raises:
        DataError: If a class has fewer documents than that, or a single one.
    """
    counted = texts.labels if protocol == "paper" else _labels_of_documents(texts)
    rarest = int(np.bincount(counted, minlength=len(texts.classes)).min())
    if n_folds is None:
        n_folds = max(2, min(_N_FOLDS[protocol], rarest))
    if rarest < n_folds:
        what = "texts" if protocol == "paper" else "documents"
        raise DataError(
            f"A class has {rarest} {what}, too few for {n_folds} folds. Pass more of them, or "
            f"fewer folds: n_folds=..., two at least."
        )
    random = {"n_splits": n_folds, "shuffle": True, "random_state": seed % 2**32}
    if protocol == "paper":
        return list(StratifiedKFold(**random).split(texts.labels, texts.labels))
    return list(StratifiedGroupKFold(**random).split(texts.labels, texts.labels, texts.documents))


def _labels_of_documents(texts: LabelledTexts) -> Int[np.ndarray, " m"]:
    """The class of each document once for each class that it has."""
    return np.unique(np.stack([texts.documents, texts.labels]), axis=1)[1]
