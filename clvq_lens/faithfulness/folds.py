"""Folds of texts: whole documents, or single texts as published."""

from typing import Literal

import numpy as np
from jaxtyping import Int
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from clvq_lens.errors import DataError
from clvq_lens.faithfulness.classified_texts import ClassifiedTexts

ProtocolName = Literal["honest", "paper"]
Fold = tuple[Int[np.ndarray, " _"], Int[np.ndarray, " _"]]
"""Rows to fit on, and rows to report."""
_N_FOLDS = {"honest": 5, "paper": 20}


def make_folds(
    texts: ClassifiedTexts, protocol: ProtocolName, *, n_folds: int | None, seed: int
) -> list[Fold]:
    """Folds of whole documents; as published: of single texts.

    Args:
        texts: Classes and documents of the texts.
        protocol: "honest" or "paper".
        n_folds: How many; None: 5, as published 20, or as many as the rarest class allows.
        seed: Random seed for the folds.

    Raises:
        DataError: If a class has fewer documents than that, or a single one.
    """
    counted = texts.classes if protocol == "paper" else _classes_of_documents(texts)
    rarest = int(np.bincount(counted, minlength=len(texts.class_names)).min())
    if n_folds is None:
        n_folds = max(2, min(_N_FOLDS[protocol], rarest))
    if rarest < n_folds:
        what = "texts" if protocol == "paper" else "documents"
        raise DataError(
            f"A class has {rarest} {what}, too few for {n_folds} folds. Pass more of them, or "
            f"fewer folds: n_folds=..., two at least."
        )
    # scikit-learn takes seeds of 32 bits.
    random = {"n_splits": n_folds, "shuffle": True, "random_state": seed % 2**32}
    if protocol == "paper":
        return list(StratifiedKFold(**random).split(texts.classes, texts.classes))
    return list(StratifiedGroupKFold(**random).split(texts.classes, texts.classes, texts.documents))


def _classes_of_documents(texts: ClassifiedTexts) -> Int[np.ndarray, " m"]:
    """The class of each document, once for each class that its texts have."""
    return np.unique(np.stack([texts.documents, texts.classes]), axis=1)[1]
