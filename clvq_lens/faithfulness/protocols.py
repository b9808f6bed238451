"""Faithfulness as published, and as a skeptic would accept it."""

from collections.abc import Iterable, Sequence
from typing import TypedDict

import numpy as np
import pandas as pd

from clvq_lens.arguments import check_between, check_count, check_seed
from clvq_lens.errors import ConfigError
from clvq_lens.faithfulness.case import Case, CaseOptions, prepare
from clvq_lens.faithfulness.classified_texts import ClassifiedTexts
from clvq_lens.faithfulness.controls import WeightedCodebook, draw_removals
from clvq_lens.faithfulness.effect_tables import SMALLEST_EFFECT, tabulate
from clvq_lens.faithfulness.effects import Effect
from clvq_lens.faithfulness.faithfulness import Faithfulness
from clvq_lens.faithfulness.folds import ProtocolName
from clvq_lens.faithfulness.model_effects import model_effects
from clvq_lens.faithfulness.probe_effects import honest_effects, published_effects
from clvq_lens.faithfulness.probes import LinearProbe
from clvq_lens.faithfulness.tokenized_texts import read_codes
from clvq_lens.host.attachment import Attached, ready
from clvq_lens.readouts.readout import Readout, Sentence
from clvq_lens.readouts.salience import Cut


class JudgingOptions(TypedDict, total=False):
    """Options of `faithfulness` that are the same for all methods of a comparison."""

    documents: Iterable[object] | None
    readout: Readout | None
    sentence: Sentence | None
    n_folds: int | None
    n_draws: int
    n_model_draws: int
    n_steps: int | None
    smallest_effect: float


def faithfulness(
    lens: Attached,
    texts: Iterable[str],
    classes: Iterable[object],
    *,
    protocol: ProtocolName = "honest",
    documents: Iterable[object] | None = None,
    readout: Readout | None = None,
    sentence: Sentence | None = None,
    n_folds: int | None = None,
    n_draws: int = 10,
    n_model_draws: int = 3,
    n_steps: int | None = None,
    smallest_effect: float = SMALLEST_EFFECT,
    long_texts: Cut = "error",
    seed: int = 0,
    progress: bool = True,
) -> Faithfulness:
    """Whether predictions about texts depend on their most salient concepts.

    Integrated gradients find the token that counts most for what the model says of a text. The
    vector of its code is projected out of the sentence vector, raw and centered, and probes that
    did not see the text predict its class again; the same is done in the running model, where the
    code is ablated too. Controls stand beside: a random code, one of about the same share, one of
    another class, another one of the same text, and a random direction.

    Args:
        lens: A fitted lens.
        texts: Texts that the quantizer was not fitted on.
        classes: The class of each text.
        protocol: "honest", or "paper": the published one.
        documents: The document of each text; folds and intervals keep documents whole. None: equal
            texts share one.
        readout: What the model says of a text, a `clvq_lens.head` or `clvq_lens.answers`; None: a
            probe of its last layer.
        sentence: How a text becomes one vector: "cls", "last" or "mean"; None: "cls" for encoders,
            "last" for causal models.
        n_folds: Folds of the cross-validation; None: 5, or 20 as published, or as many as the
            rarest class allows.
        n_draws: Draws of each control.
        n_model_draws: Draws of each control in the model, at most ``n_draws``.
        n_steps: Points of the path of integrated gradients; None: as many in each text as it
            takes, as in `clvq_lens.salience`.
        smallest_effect: An effect is specific if it is larger than that of every control by more
            than this, in units of the probability of the class; 0 counts every difference that is
            there, however small.
        long_texts: What to do with a text beyond the context: raise an "error", or "truncate" it.
        seed: Random seed for folds and controls.
        progress: Whether to show progress bars.

    Returns:
        Accuracy and probability of the class in every condition with intervals over documents and
        salient codes, and how much of the effect is specific to the concept.

    Raises:
        NotFittedError: If the quantizer has not been fitted.
        OpenBlockError: Inside a block of this lens, such as an edit.
        ConfigError: If there is no such protocol, or an option has an impossible value.
        DataError: If texts and classes do not fit together, or a class has too few documents.
        EmptyCorpusError: If a text holds no real token.
        TextTooLongError: If a text is longer than the context and ``long_texts`` is "error".
    """
    attachment = ready(lens, "measure faithfulness")
    check_judging(n_draws=n_draws, n_model_draws=n_model_draws, smallest_effect=smallest_effect)
    options = CaseOptions(
        protocol=protocol,
        readout=readout,
        sentence=sentence,
        n_folds=n_folds,
        n_steps=n_steps,
        long_texts=long_texts,
        seed=seed,
    )
    classified = ClassifiedTexts.of(texts, classes, documents)
    host, source = attachment.host, attachment.source
    case = prepare(host, source, classified, options, progress=progress)
    return judge(
        case,
        attachment,
        n_draws=n_draws,
        n_model_draws=n_model_draws,
        smallest_effect=smallest_effect,
        seed=seed,
        progress=progress,
    )


def check_judging(**options: object) -> None:
    """Raises `ConfigError` for impossible options of `judge`, before anything takes long."""
    for name, value in options.items():
        if name == "smallest_effect":
            check_between(name, value, 0.0, 1.0)
        else:
            check_count(name, value)


def judge(
    case: Case,
    lens: Attached,
    *,
    n_draws: int = 10,
    n_model_draws: int = 3,
    smallest_effect: float = SMALLEST_EFFECT,
    seed: int = 0,
    progress: bool = True,
) -> Faithfulness:
    """Removes the concepts of a case, as the codes of one quantizer name them.

    Args:
        case: Prepared at the hook point that the quantizer reads.
        lens: A fitted lens.
        n_draws: Draws of each control.
        n_model_draws: Draws of each control in the model, at most ``n_draws``.
        smallest_effect: What a specific effect has to be above, as a probability.
        seed: Random seed for controls.
        progress: Whether to show a progress bar.

    Raises:
        ConfigError: If the case is of another hook point, or there is no draw of a control.
        DataError: If fewer than two codes are in use.
    """
    attachment = ready(lens)  # here too: a comparison judges many lenses by one case
    if case.source != attachment.source:
        raise ConfigError(
            f"The case was prepared at {case.source!r}, but {attachment.name!r} reads "
            f"{attachment.source!r}. Prepare one for that hook point."
        )
    check_judging(n_draws=n_draws, n_model_draws=n_model_draws, smallest_effect=smallest_effect)
    check_seed(seed)
    codebook = WeightedCodebook.of(attachment.quantizer)
    of_texts = read_codes(attachment, case.tokens, progress=progress)
    salient = of_texts.at(case.salient.positions)
    random = np.random.default_rng(seed)
    removals = draw_removals(
        salient, of_texts, case.texts.classes, codebook, n_draws=n_draws, random=random
    )
    vectors, texts, folds = case.vectors.source, case.texts, case.folds
    if case.protocol == "paper":
        effects = published_effects(vectors, texts, folds, case.probes, removals)
    else:
        probes = [probe for probe in case.probes if isinstance(probe, LinearProbe)]
        effects = [
            *honest_effects(vectors, texts, folds, probes, removals, codebook, progress=progress),
            *model_effects(case, attachment, removals, n_draws=n_model_draws, progress=progress),
        ]
    return _result(case, salient, effects, float(smallest_effect))


def _result(
    case: Case, salient: np.ndarray, effects: Sequence[Effect], smallest_effect: float
) -> Faithfulness:
    texts = case.texts
    tables = tabulate(effects, texts.documents, salient, smallest_effect=smallest_effect)
    # As objects: an array of numbers and strings would turn all of them into strings.
    names = np.array(texts.class_names, dtype=object)
    return Faithfulness(
        protocol=case.protocol,
        n_texts=len(texts),
        n_documents=len(np.unique(texts.documents)),
        n_salient_codes=len(np.unique(salient)),
        n_folds=len(case.folds),
        chance=float(texts.shares.max()),
        floor=float(texts.shares.min()),
        smallest_effect=smallest_effect,
        level=tables.level,
        completeness_error=case.salient.completeness_error,
        conditions=tables.conditions,
        contrasts=tables.contrasts,
        texts=pd.DataFrame(
            {
                "document": texts.documents,
                "class": names[texts.classes],
                "predicted": names[case.salient.probabilities.argmax(1)],
                "position": case.salient.positions,
                "token": case.salient.tokens,
                "code": salient,
            }
        ),
    )
