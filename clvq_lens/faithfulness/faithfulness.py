"""The result: every effect beside its controls, with intervals over documents."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float, Int

from clvq_lens.faithfulness.controls import CONCEPT, OF_ANOTHER_CLASS
from clvq_lens.faithfulness.effects import UNPERTURBED, Effect
from clvq_lens.plots.removal_effects import plot_faithfulness
from clvq_lens.showing import Shown
from clvq_lens.stats.bootstrap import BootstrapSums, Estimate

_KEY = ["place", "ablation"]


@dataclass(frozen=True, repr=False)
class Faithfulness(Shown):
    """Whether predictions about texts depend on their most salient concepts.

    Attributes:
        protocol: "honest", or "paper": the published one.
        n_texts: Texts tested.
        n_documents: Documents that they are from.
        n_folds: Folds of the cross-validation.
        chance: Accuracy of always saying the commonest class.
        floor: Share of the rarest class: predictions that know nothing of the class are right at
            least as often. An accuracy below it means that classes are flipped, not that
            information is gone.
        completeness_error: Median over texts of how far integrated gradients are from adding up.
        conditions: One row for each condition, as `frame` gives it.
        contrasts: The concept against each control, as `specific` gives it.
        texts: One row for each text: document, class, what is predicted, its most salient token,
            the position of that token, and its code.
    """

    protocol: str
    n_texts: int
    n_documents: int
    n_folds: int
    chance: float
    floor: float
    completeness_error: float
    conditions: pd.DataFrame
    contrasts: pd.DataFrame
    texts: pd.DataFrame

    def frame(self) -> pd.DataFrame:
        """One row for each condition, with 95 % intervals over documents.

        ``accuracy``, ``probability`` of the class, how far it falls (``drop``), the share of
        predictions that are ``changed``, and ``retrained``: the accuracy of a probe fitted on
        such vectors, which tells lost information from flipped classes.
        """
        return self.conditions

    def specific(self) -> pd.DataFrame:
        """How much of the effect is specific: drop of the concept less that of each control.

        Intervals are over documents and paired text by text; one that holds 0 means that no
        specific effect was found. ``accuracy`` is that of the control less that of the concept.
        """
        return self.contrasts

    def is_specific(self, place: str, ablation: str) -> bool:
        """Whether the drop of the concept is above that of every control, by its interval.

        Codes of another class do not count here: with two classes, centered codes of either may
        lie on one axis, and then both remove it.

        Args:
            place: "probe" or "model".
            ablation: "raw", "centered" or "code".
        """
        rows = self._contrasts_of(place, ablation, classes=False)
        return bool(len(rows) and (rows["drop_low"] > 0).all())

    def flips_classes(self, place: str, ablation: str) -> bool:
        """Whether removing the concept leaves an accuracy below what knowing nothing would give.

        Args:
            place: "probe" or "model".
            ablation: "raw", "centered" or "code".
        """
        frame = self.conditions
        rows = frame[(frame["place"] == place) & (frame["ablation"] == ablation)]
        return bool((rows["accuracy_high"][rows["condition"] == CONCEPT] < self.floor).any())

    def value(self, place: str, ablation: str, condition: str, column: str) -> Estimate:
        """A number of `frame` with its interval.

        Args:
            place: "probe" or "model".
            ablation: "raw", "centered" or "code"; "" where nothing was removed.
            condition: Such as "concept" or "unperturbed".
            column: "accuracy", "probability", "drop", "changed" or "retrained".
        """
        frame = self.conditions.set_index([*_KEY, "condition"])
        return _estimate(frame.loc[(place, ablation, condition)], column)

    def least_contrast(self, place: str, ablation: str) -> Estimate:
        """Drop of the concept less that of its strongest control, codes of another class left out.

        Args:
            place: "probe" or "model".
            ablation: "raw", "centered" or "code".
        """
        return _estimate(self._strongest_control(place, ablation), "drop")

    def plot(self) -> go.Figure:
        """How far the probability of the class falls in every condition, with intervals."""
        return plot_faithfulness(self.conditions, protocol=self.protocol, concept=CONCEPT)

    def verdict(self) -> str:
        """In words: for each place and ablation, whether the effect is specific."""
        lines: list[str] = []
        for place, ablation in self._removals():
            least = self._strongest_control(place, ablation)
            over = (
                f"over {least['control']} by {least['drop']:.3f} "
                f"[{least['drop_low']:.3f}, {least['drop_high']:.3f}]"
            )
            first, *others = self._findings(place, ablation)
            lines.append(f"{place}, {ablation}: {'; '.join([first, over, *others])}")
        return "\n".join(lines)

    def headline(self) -> str:
        """The protocol, how many texts, and what a probe is worth with and without the concept."""
        # The published protocol knows raw directions alone.
        ablation = "raw" if self.protocol == "paper" else "centered"
        before = self.value("probe", "", UNPERTURBED, "accuracy")
        after = self.value("probe", ablation, CONCEPT, "accuracy")
        return (
            f"{self.protocol} protocol, {self.n_texts:,} texts of {self.n_documents:,} documents, "
            f"{self.n_folds} folds; accuracy of a probe {before:.3f}, {after:.3f} without the "
            f"concept ({ablation}), chance {self.chance:.3f}"
        )

    def preview(self) -> pd.DataFrame:
        """One row for each place and ablation: the concept, its strongest control, the verdict."""
        rows: list[dict[str, object]] = []
        for place, ablation in self._removals():
            least = self._strongest_control(place, ablation)
            rows.append(
                {
                    "place": place,
                    "ablation": ablation,
                    "accuracy": float(self.value(place, ablation, CONCEPT, "accuracy")),
                    "drop": float(self.value(place, ablation, CONCEPT, "drop")),
                    "over strongest control": f"{least['drop']:.3f} "
                    f"[{least['drop_low']:.3f}, {least['drop_high']:.3f}]",
                    "strongest control": least["control"],
                    "verdict": "; ".join(self._findings(place, ablation)),
                }
            )
        return pd.DataFrame(rows)

    def _removals(self) -> list[tuple[str, str]]:
        """Every place and ablation, in the order of the table."""
        pairs = self.contrasts[_KEY].drop_duplicates()
        return list(zip(pairs["place"], pairs["ablation"], strict=True))

    def _findings(self, place: str, ablation: str) -> list[str]:
        """Whether the effect is specific, and what speaks against it."""
        findings = ["specific" if self.is_specific(place, ablation) else "no specific effect"]
        by_class = self._contrasts_of(place, ablation, classes=True)
        if len(by_class) and by_class["drop_low"].iloc[0] <= 0:
            findings.append(f"as much by a {OF_ANOTHER_CLASS}")
        if self.flips_classes(place, ablation):
            findings.append("classes are flipped, not lost")
        return findings

    def _strongest_control(self, place: str, ablation: str) -> pd.Series:
        """The row of the contrast with the control that does most."""
        rows = self._contrasts_of(place, ablation, classes=False)
        return rows.sort_values("drop").iloc[0]

    def _contrasts_of(self, place: str, ablation: str, *, classes: bool) -> pd.DataFrame:
        """Contrasts with codes of another class, or with all other controls."""
        frame = self.contrasts.query("place == @place and ablation == @ablation")
        return frame.loc[(frame["control"] == OF_ANOTHER_CLASS) == classes]


def tabulate(
    effects: Sequence[Effect],
    documents: Int[np.ndarray, " n"],
    *,
    n_replicates: int,
    seed: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Conditions, and contrasts of the concept with every control, from effects on single texts.

    Args:
        effects: Effects of all conditions; each place needs its "unperturbed" one.
        documents: The document of each text; documents are resampled whole.
        n_replicates: Replicates of the bootstrap.
        seed: Random seed for the bootstrap.
    """
    clean: dict[str, Effect] = {}
    concepts: dict[tuple[str, str], Effect] = {}
    for effect in effects:
        if effect.condition == UNPERTURBED:
            clean[effect.place] = effect
        if effect.condition == CONCEPT:
            concepts[effect.place, effect.ablation] = effect
    sums = BootstrapSums(n_replicates=n_replicates, seed=seed)
    values: dict[str, Float[np.ndarray, " n"]] = {"n": np.ones(len(documents))}
    contrasted: list[int] = []
    for number, effect in enumerate(effects):
        for name, of_texts in _values(effect, clean[effect.place]).items():
            values[f"{number} {name}"] = of_texts
        concept = concepts.get((effect.place, effect.ablation))
        if concept is not None and effect is not concept:
            contrasted.append(number)
            # Text by text, so that what makes a text easy or hard cancels in the interval.
            values[f"{number} specific drop"] = effect.probability - concept.probability
            values[f"{number} specific accuracy"] = effect.correct - concept.correct
    sums.add(documents.tolist(), values)  # in one call: all columns from the same replicates
    conditions: list[dict[str, object]] = []
    for number, effect in enumerate(effects):
        names = _values(effect, clean[effect.place])
        conditions.append({**_name(effect, "condition"), **_means(sums, f"{number} ", names)})
    contrasts: list[dict[str, object]] = []
    for number in contrasted:
        means = _means(sums, f"{number} specific ", ("drop", "accuracy"))
        contrasts.append({**_name(effects[number], "control"), **means})
    return pd.DataFrame(conditions), pd.DataFrame(contrasts)


def _estimate(row: Any, column: str) -> Estimate:
    value, low, high = row[[column, f"{column}_low", f"{column}_high"]].to_numpy(dtype=float)
    return Estimate(float(value), float(low), float(high))


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


def _name(effect: Effect, condition: str) -> dict[str, str]:
    return {"place": effect.place, "ablation": effect.ablation, condition: effect.condition}


def _means(sums: BootstrapSums, prefix: str, names: Iterable[str]) -> dict[str, float]:
    """Means over texts and the ends of their intervals, as columns."""
    columns: dict[str, float] = {}
    for name in names:
        key = prefix + name
        # Both are sums over resampled documents, which do not hold the same number of texts.
        mean = sums.estimate(lambda resampled, key=key: resampled[key] / resampled["n"])
        columns |= {name: float(mean), f"{name}_low": mean.low, f"{name}_high": mean.high}
    return columns
