"""The result: every effect beside its controls, with intervals over documents."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float, Int

from clvq_lens.evaluation.bootstrap import BootstrapSums, Estimate
from clvq_lens.faithfulness.controls import CONCEPT, OF_ANOTHER_CLASS
from clvq_lens.faithfulness.effects import UNPERTURBED, Effect
from clvq_lens.plots.faithfulness import plot_faithfulness

_KEY = ["place", "ablation"]


@dataclass(frozen=True)
class Faithfulness:
    """Whether predictions about texts depend on their most salient concepts.

    Attributes:
        protocol: "honest", or "paper": the published one.
        n_texts: Texts tested.
        n_documents: Documents that they are from.
        n_folds: Folds of the cross-validation.
        chance: Accuracy of always saying the commonest class.
        floor: Share of the rarest class: predictions that know nothing of the label are right at
            least as often. An accuracy below it means that labels are flipped, not that
            information is gone.
        completeness_error: Median over texts of how far integrated gradients are from adding up.
        conditions: One row for each condition, as `frame` gives it.
        contrasts: The concept against each control, as `specific` gives it.
        texts: One row for each text: document, label, what is predicted, its most salient token,
            where it stands, and its code.
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

        ``accuracy``, ``probability`` of the label, how far it falls (``drop``), the share of
        predictions that are ``changed``, and ``retrained``: the accuracy of a probe fitted on
        such vectors, which tells lost information from flipped labels.
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

        Codes of another class do not count here: with two classes, centred codes of either may
        lie on one axis, and then both remove it.

        Args:
            place: "probe" or "model".
            ablation: "raw", "centred" or "code".
        """
        rows = self._contrasts_of(place, ablation, classes=False)
        return bool(len(rows) and (rows["drop_low"] > 0).all())

    def flips_labels(self, place: str, ablation: str) -> bool:
        """Whether removing the concept leaves an accuracy below what knowing nothing would give.

        Args:
            place: "probe" or "model".
            ablation: "raw", "centred" or "code".
        """
        frame = self.conditions
        rows = frame[(frame["place"] == place) & (frame["ablation"] == ablation)]
        return bool((rows["accuracy_high"][rows["condition"] == CONCEPT] < self.floor).any())

    def value(self, place: str, ablation: str, condition: str, column: str) -> Estimate:
        """A number of `frame` with its interval.

        Args:
            place: "probe" or "model".
            ablation: "raw", "centred" or "code"; "" where nothing was removed.
            condition: Such as "concept" or "unperturbed".
            column: "accuracy", "probability", "drop", "changed" or "retrained".
        """
        frame = self.conditions.set_index([*_KEY, "condition"])
        return _estimate(frame.loc[(place, ablation, condition)], column)

    def least_contrast(self, place: str, ablation: str) -> Estimate:
        """Drop of the concept less that of the control that does most, codes of its class apart.

        Args:
            place: "probe" or "model".
            ablation: "raw", "centred" or "code".
        """
        rows = self._contrasts_of(place, ablation, classes=False)
        return _estimate(rows.sort_values("drop").iloc[0], "drop")

    def plot(self) -> go.Figure:
        """How far the probability of the label falls in every condition, with intervals."""
        return plot_faithfulness(self.conditions, protocol=self.protocol)

    def verdict(self) -> str:
        """In words: for each place and ablation, whether the effect is specific."""
        pairs = self.contrasts[_KEY].drop_duplicates().itertuples(index=False)
        return "\n".join(self._verdict_on(*pair) for pair in pairs)

    def _verdict_on(self, place: str, ablation: str) -> str:
        by_class = self._contrasts_of(place, ablation, classes=True)
        least = self._contrasts_of(place, ablation, classes=False).sort_values("drop").iloc[0]
        parts = [
            "specific" if self.is_specific(place, ablation) else "no specific effect",
            f"over {least['control']} by {least['drop']:.3f} "
            f"[{least['drop_low']:.3f}, {least['drop_high']:.3f}]",
        ]
        if len(by_class) and by_class["drop_low"].iloc[0] <= 0:
            parts.append(f"as much by a {OF_ANOTHER_CLASS}")
        if self.flips_labels(place, ablation):
            parts.append("labels are flipped, not lost")
        return f"{place}, {ablation}: {'; '.join(parts)}"

    def _contrasts_of(self, place: str, ablation: str, *, classes: bool) -> pd.DataFrame:
        """Those with codes of another class, or with all other controls."""
        frame = self.contrasts.query("place == @place and ablation == @ablation")
        return frame.loc[(frame["control"] == OF_ANOTHER_CLASS) == classes]

    @property
    def _head(self) -> str:
        return (
            f"{self.protocol} protocol: {self.n_texts:,} texts of {self.n_documents:,} documents, "
            f"{self.n_folds} folds, chance {self.chance:.3f}, integrated gradients within "
            f"{self.completeness_error:.1%}"
        )

    def __repr__(self) -> str:
        table = self.conditions.round(3).to_string(index=False, na_rep="")
        return f"{self._head}\n{table}\n{self.verdict()}"

    def _repr_html_(self) -> str:
        table = self.conditions.round(3).to_html(index=False, na_rep="")
        lines = "<br>".join(escape(line) for line in self.verdict().split("\n"))
        return f"<p>{escape(self._head)}</p>{table}<p>{lines}</p>"


def tabulate(
    effects: Sequence[Effect],
    documents: Int[np.ndarray, " n"],
    *,
    n_replicates: int,
    seed: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Conditions, and contrasts of the concept with every control, from effects on single texts.

    Args:
        effects: Of all conditions; each place needs its "unperturbed" one.
        documents: Of each text; they are resampled whole.
        n_replicates: Of the bootstrap.
        seed: Of the bootstrap.
    """
    sums = BootstrapSums(n_replicates=n_replicates, seed=seed)
    clean = {e.place: e for e in effects if e.condition == UNPERTURBED}
    concept = {(e.place, e.ablation): e for e in effects if e.condition == CONCEPT}
    values: dict[str, Float[np.ndarray, " n"]] = {"n": np.ones(len(documents))}
    for number, e in enumerate(effects):
        values |= {f"{number} {name}": value for name, value in _values(e, clean[e.place]).items()}
        against = concept.get((e.place, e.ablation))
        if against is not None and e is not against:
            values[f"{number} specific drop"] = e.probability - against.probability
            values[f"{number} specific accuracy"] = e.correct - against.correct
    sums.add(documents.tolist(), values)

    def mean(name: str) -> Estimate:
        return sums.estimate(lambda s: s[name] / s["n"])

    conditions = pd.DataFrame(
        [
            {**_name(e), **_row(mean, f"{number} ", _values(e, clean[e.place]))}
            for number, e in enumerate(effects)
        ]
    )
    contrasts = pd.DataFrame(
        [
            {
                **dict(zip(_KEY, (e.place, e.ablation), strict=True)),
                "control": e.condition,
                **_row(mean, f"{number} specific ", ("drop", "accuracy")),
            }
            for number, e in enumerate(effects)
            if f"{number} specific drop" in values
        ]
    )
    return conditions, contrasts


def _estimate(row: Any, column: str) -> Estimate:
    value, low, high = row[[column, f"{column}_low", f"{column}_high"]].to_numpy(dtype=float)
    return Estimate(float(value), float(low), float(high))


def _values(e: Effect, clean: Effect) -> Mapping[str, np.ndarray]:
    values = {
        "accuracy": e.correct,
        "probability": e.probability,
        "drop": clean.probability - e.probability,
        "changed": e.changed,
    }
    return values if e.retrained is None else {**values, "retrained": e.retrained}


def _name(e: Effect) -> dict[str, str]:
    return {"place": e.place, "ablation": e.ablation, "condition": e.condition}


def _row(
    mean: Callable[[str], Estimate], prefix: str, names: Mapping[str, np.ndarray] | Sequence[str]
) -> dict[str, float]:
    """Values and ends of their intervals, as columns."""
    row: dict[str, float] = {}
    for name in names:
        value = mean(prefix + name)
        row |= {name: float(value), f"{name}_low": value.low, f"{name}_high": value.high}
    return row
