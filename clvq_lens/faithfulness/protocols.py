"""Faithfulness as published, and as a sceptic would accept it."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from clvq_lens.arguments import check_count, check_seed
from clvq_lens.errors import ConfigError
from clvq_lens.faithfulness.case import Case, prepare
from clvq_lens.faithfulness.controls import Codes, removals
from clvq_lens.faithfulness.effects import UNPERTURBED, Effect, effect
from clvq_lens.faithfulness.in_model import in_model
from clvq_lens.faithfulness.probe import LinearProbe
from clvq_lens.faithfulness.probing import honest_effects, published_effects
from clvq_lens.faithfulness.reading import read_codes
from clvq_lens.faithfulness.result import Faithfulness, tabulate
from clvq_lens.host.attach import Attachment

JUDGING = ("n_draws", "n_model_draws", "n_replicates")
"""Options of `judge`; all others are those of `prepare`."""


def faithfulness(
    attachment: Attachment,
    texts: Sequence[str],
    labels: Iterable[Any],
    *,
    seed: int = 0,
    progress: bool = True,
    **options: Any,
) -> Faithfulness:
    """Whether predictions about texts depend on their concepts; see `clvq_lens.Lens.faithfulness`.

    Args:
        attachment: Of a fitted quantizer.
        texts: The texts.
        labels: Their classes.
        seed: Of folds, controls and bootstrap.
        progress: Whether to show progress bars.
        **options: Of `prepare` and `judge`.
    """
    judging = {name: options.pop(name) for name in JUDGING if name in options}
    check_judging(**judging)
    host, source = attachment.host, attachment.source
    case = prepare(host, source, texts, labels, seed=seed, progress=progress, **options)
    return judge(case, attachment, seed=seed, progress=progress, **judging)


def check_judging(**options: Any) -> None:
    """Raises `ConfigError` if an option of `judge` is no count; before anything that takes long."""
    for name, value in options.items():
        check_count(name, value)


def judge(
    case: Case,
    attachment: Attachment,
    *,
    n_draws: int = 10,
    n_model_draws: int = 3,
    n_replicates: int = 1_000,
    seed: int = 0,
    progress: bool = True,
) -> Faithfulness:
    """Removes the concepts of a case, as the codes of one quantizer name them.

    Args:
        case: Prepared at the hook point that the quantizer reads.
        attachment: Of a fitted quantizer.
        n_draws: Of each control.
        n_model_draws: Of each control in the model, at most as many.
        n_replicates: Of the bootstrap over documents.
        seed: Of controls and bootstrap.
        progress: Whether to show a progress bar.

    Raises:
        ConfigError: If the case is of another hook point, or there is no draw of a control.
        DataError: If fewer than two codes are in use.
    """
    if case.source != attachment.source:
        raise ConfigError(
            f"The case was prepared at {case.source!r}, but {attachment.name!r} reads "
            f"{attachment.source!r}. Prepare one for that hook point."
        )
    check_judging(n_draws=n_draws, n_model_draws=n_model_draws, n_replicates=n_replicates)
    check_seed(seed)
    codes = Codes.of(attachment.quantizer)
    of_texts = read_codes(attachment, case.texts.texts, long_texts=case.long_texts)
    salient = of_texts.at(case.salient.positions)
    random = np.random.default_rng(seed)
    found = removals(salient, of_texts, case.texts.labels, codes, n_draws=n_draws, random=random)
    vectors, texts, folds = case.vectors.source, case.texts, case.folds
    if case.protocol == "paper":
        effects = published_effects(vectors, texts, folds, case.probes, found)
    else:
        linear = [probe for probe in case.probes if isinstance(probe, LinearProbe)]
        effects = [
            *honest_effects(vectors, texts, folds, linear, found, codes),
            _said(case),
            *in_model(case, attachment, found, n_draws=n_model_draws, progress=progress),
        ]
    return _result(case, salient, effects, n_replicates, seed)


def _said(case: Case) -> Effect:
    """What the model says with nothing removed."""
    said = case.salient.probabilities
    return effect(("model", "", UNPERTURBED), said[:, None], said, case.texts.labels)


def _result(
    case: Case, salient: np.ndarray, effects: Sequence[Effect], n_replicates: int, seed: int
) -> Faithfulness:
    texts = case.texts
    tables = tabulate(effects, texts.documents, n_replicates=n_replicates, seed=seed)
    names = np.array(texts.classes, dtype=object)
    return Faithfulness(
        protocol=case.protocol,
        n_texts=len(texts),
        n_documents=len(np.unique(texts.documents)),
        n_folds=len(case.folds),
        chance=float(texts.shares.max()),
        floor=float(texts.shares.min()),
        completeness_error=case.salient.completeness_error,
        conditions=tables[0],
        contrasts=tables[1],
        texts=pd.DataFrame(
            {
                "document": texts.documents,
                "label": names[texts.labels],
                "predicted": names[case.salient.probabilities.argmax(1)],
                "position": case.salient.positions,
                "token": case.salient.tokens,
                "code": salient,
            }
        ),
    )
