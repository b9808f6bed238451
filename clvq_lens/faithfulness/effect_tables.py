"""Tables of effects, with intervals over documents and codes, and verdicts on them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from clvq_lens.faithfulness.controls import CONCEPT, OF_ANOTHER_CLASS
from clvq_lens.faithfulness.effects import UNPERTURBED, Effect
from clvq_lens.stats.clustered import clustered_mean
from clvq_lens.stats.estimates import LEVEL, Measured
from clvq_lens.stats.holm import holm, holm_level

KEY = ["place", "ablation"]
SMALLEST_EFFECT = 0.01  # one text in a hundred, or a hundredth of the probability of each
_SHARE, _CHANGE = (0.0, 1.0), (-1.0, 1.0)  # what shares, and differences of them, can be
_LIMITS = {"drop": _CHANGE}


@dataclass(frozen=True)
class EffectTables:
    """Effects as tables.

    Attributes:
        conditions: One row for each condition, with 95 % intervals.
        contrasts: The concept against each control.
        level: Level of the intervals of the contrasts.
    """

    conditions: pd.DataFrame
    contrasts: pd.DataFrame
    level: float


def tabulate(
    effects: Sequence[Effect],
    documents: Int[np.ndarray, " n"],
    codes: Int[np.ndarray, " n"],
    *,
    smallest_effect: float = SMALLEST_EFFECT,
) -> EffectTables:
    """Conditions, and contrasts of the concept with every control, from effects on single texts.

    Texts are alike where they share a document or a salient code, and errors account for both: an
    effect of three codes is known from three codes, however many texts have them.

    Args:
        effects: Effects of all conditions; each place needs its "unperturbed" one.
        documents: The document of each text.
        codes: The salient code of each text.
        smallest_effect: Drops of at most this much do not count as an effect.
    """
    clean: dict[str, Effect] = {}
    concepts: dict[tuple[str, str], Effect] = {}
    for effect in effects:
        if effect.condition == UNPERTURBED:
            clean[effect.place] = effect
        if effect.condition == CONCEPT:
            concepts[effect.place, effect.ablation] = effect
    conditions: list[dict[str, object]] = []
    contrasted: list[_Contrast] = []
    for effect in effects:
        # Where nothing was removed, codes play no part.
        clusters = (documents,) if effect.condition == UNPERTURBED else (documents, codes)
        row: dict[str, object] = _name(effect, "condition")
        for name, of_texts in _values(effect, clean[effect.place]).items():
            measured = clustered_mean(of_texts, *clusters)
            row |= _columns(name, measured, LEVEL, _LIMITS.get(name, _SHARE))
        conditions.append(row)
        concept = concepts.get((effect.place, effect.ablation))
        if concept is not None and effect is not concept:
            contrasted.append(_Contrast.of(concept, effect, documents, codes))
    level = _level_of_verdicts(contrasted, smallest_effect)
    contrasts = [contrast.row(smallest_effect, level) for contrast in contrasted]
    return EffectTables(pd.DataFrame(conditions), pd.DataFrame(contrasts), level)


@dataclass(frozen=True)
class _Contrast:
    """How much more the concept does than a control."""

    control: Effect
    drop: Measured
    accuracy: Measured

    @classmethod
    def of(
        cls, concept: Effect, control: Effect, documents: np.ndarray, codes: np.ndarray
    ) -> "_Contrast":
        # Text by text, so that what makes a text easy or hard cancels in the interval.
        drop = control.probability - concept.probability
        accuracy = control.correct - concept.correct
        return cls(
            control,
            clustered_mean(drop, documents, codes),
            clustered_mean(accuracy, documents, codes),
        )

    def row(self, smallest_effect: float, level: float) -> dict[str, object]:
        return {
            **_name(self.control, "control"),
            **_columns("drop", self.drop, level, _CHANGE),
            **_columns("accuracy", self.accuracy, level, _CHANGE),
            "p": self.drop.p_above(smallest_effect),
        }


def _level_of_verdicts(contrasts: Sequence[_Contrast], smallest_effect: float) -> float:
    """Level at which intervals say what Holm's method says of all verdicts together."""
    rows = [contrast.row(smallest_effect, LEVEL) for contrast in contrasts]
    return holm_level(_p_values(pd.DataFrame(rows))["p"].tolist(), level=LEVEL)


def verdicts(contrasts: pd.DataFrame) -> pd.DataFrame:
    """One row for each place and ablation: the control that decides, and the p-values.

    Codes of another class do not count here: with two classes, centered codes of either may lie on
    one axis, and then both remove it.

    Args:
        contrasts: From `tabulate`.

    Returns:
        The contrast with the control that the concept is least clear of, by the lower end of its
        interval; ``p`` is the largest over controls, since the drop has to be above every one, and
        ``p_holm`` is corrected for the number of verdicts.
    """
    of_controls = contrasts.loc[contrasts["control"] != OF_ANOTHER_CLASS]
    closest = of_controls.sort_values("drop_low", na_position="first").drop_duplicates(KEY)
    table = _p_values(contrasts).merge(closest.drop(columns="p"), on=KEY)
    table["p_holm"] = holm(table["p"].tolist())
    return table


def _p_values(contrasts: pd.DataFrame) -> pd.DataFrame:
    """The p-value of each place and ablation, in the order of the table."""
    if not len(contrasts):
        return pd.DataFrame(columns=[*KEY, "p"])
    of_controls = contrasts.loc[contrasts["control"] != OF_ANOTHER_CLASS]
    # Where one control gives no p-value, there is no verdict.
    largest = of_controls.groupby(KEY, sort=False)["p"].agg(lambda p: p.max(skipna=False))
    return largest.reset_index()


def _values(effect: Effect, clean: Effect) -> dict[str, Float[np.ndarray, " n"]]:
    """The columns of the table, text by text."""
    values = {
        "accuracy": effect.correct,
        "probability": effect.probability,
        "drop": clean.probability - effect.probability,
        "changed": effect.changed,
    }
    if effect.retrained is not None:
        values["retrained"] = effect.retrained
    return values


def _name(effect: Effect, condition: str) -> dict[str, object]:
    return {"place": effect.place, "ablation": effect.ablation, condition: effect.condition}


def _columns(
    name: str, measured: Measured, level: float, limits: tuple[float, float]
) -> dict[str, float]:
    """A mean and the ends of its interval, as columns."""
    mean = measured.estimate(level=level, limits=limits)
    return {name: float(mean), f"{name}_low": mean.low, f"{name}_high": mean.high}
