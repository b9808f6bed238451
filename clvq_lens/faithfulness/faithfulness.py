"""The result: every effect beside its controls, with intervals over documents and codes."""

from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from clvq_lens.faithfulness.controls import CONCEPT, OF_ANOTHER_CLASS
from clvq_lens.faithfulness.effect_tables import KEY, verdicts
from clvq_lens.faithfulness.effects import UNPERTURBED
from clvq_lens.plots.removal_effects import plot_faithfulness
from clvq_lens.showing import Shown, told_apart, with_interval
from clvq_lens.stats.estimates import Estimate


@dataclass(frozen=True, repr=False)
class Faithfulness(Shown):
    """Whether predictions about texts depend on their most salient concepts.

    Attributes:
        protocol: "honest", or "paper": the published one.
        n_texts: Texts tested.
        n_documents: Documents that they are from.
        n_salient_codes: Different codes among the most salient tokens. Effects belong to codes, so
            that few codes say little, however many texts have them.
        n_folds: Folds of the cross-validation.
        chance: Accuracy of always saying the commonest class.
        floor: Share of the rarest class: predictions that know nothing of the class are right at
            least as often. An accuracy below it means that classes are flipped, not that
            information is gone.
        smallest_effect: What is specific has to be above this, with its whole interval: a drop of
            the probability of the class, in [0, 1).
        level: Level of the intervals of ``contrasts``; see `specific`.
        completeness_error: Median over texts of how far integrated gradients are from adding up.
        conditions: One row for each condition, as `frame` gives it.
        contrasts: The concept against each control, as `specific` gives it.
        texts: One row for each text: document, class, what is predicted, its most salient token,
            the position of that token, and its code.
    """

    protocol: str
    n_texts: int
    n_documents: int
    n_salient_codes: int
    n_folds: int
    chance: float
    floor: float
    smallest_effect: float
    level: float
    completeness_error: float
    conditions: pd.DataFrame
    contrasts: pd.DataFrame
    texts: pd.DataFrame

    def frame(self) -> pd.DataFrame:
        """One row for each condition, with 95 % intervals over documents and salient codes.

        ``accuracy``, ``probability`` of the class, how far it falls (``drop``), the share of
        predictions that are ``changed``, and ``retrained``: the accuracy of a probe fitted on
        such vectors, which tells lost information from flipped classes.
        """
        return self.conditions

    def specific(self) -> pd.DataFrame:
        """How much of the effect is specific: drop of the concept less that of each control.

        Intervals are over documents and salient codes, and paired text by text. They are as wide
        as Holm's method asks for the number of verdicts (``level``), so that an effect is specific
        exactly where the intervals of ``drop`` lie above ``smallest_effect`` for every control.
        ``p`` is the p-value of that before the correction. ``accuracy`` is that of the control less
        that of the concept.
        """
        return self.contrasts

    def is_specific(self, place: str, ablation: str) -> bool:
        """Whether the drop of the concept is above that of every control by ``smallest_effect``.

        By intervals that are corrected for the number of verdicts (Holm 1979): the probability that
        any verdict of this result is false stays below 0.05. Codes of another class do not count
        here: with two classes, centered codes of either may lie on one axis, and then both remove
        it.

        Args:
            place: "probe" or "model".
            ablation: "raw", "centered" or "code".
        """
        rows = self._contrasts_of(place, ablation, classes=False)
        return bool(len(rows) and (rows["drop_low"] > self.smallest_effect).all())

    def flips_classes(self, place: str, ablation: str) -> bool:
        """Whether removing the concept leaves an accuracy below what knowing nothing would give.

        By ``smallest_effect`` at least, with the whole 95 % interval.

        Args:
            place: "probe" or "model".
            ablation: "raw", "centered" or "code".
        """
        frame = self.conditions
        rows = frame[(frame["place"] == place) & (frame["ablation"] == ablation)]
        highest = rows["accuracy_high"][rows["condition"] == CONCEPT]
        return bool((highest < self.floor - self.smallest_effect).any())

    def value(self, place: str, ablation: str, condition: str, column: str) -> Estimate:
        """A number of `frame` with its interval.

        Args:
            place: "probe" or "model".
            ablation: "raw", "centered" or "code"; "" where nothing was removed.
            condition: Such as "concept" or "unperturbed".
            column: "accuracy", "probability", "drop", "changed" or "retrained".
        """
        frame = self.conditions.set_index([*KEY, "condition"])
        return _estimate(frame.loc[(place, ablation, condition)], column)

    def least_contrast(self, place: str, ablation: str) -> Estimate:
        """Drop of the concept less that of the control that decides the verdict.

        That is the control whose interval reaches lowest, codes of another class left out. The
        interval is that of `specific`.

        Args:
            place: "probe" or "model".
            ablation: "raw", "centered" or "code".
        """
        table = self.verdicts().set_index(KEY)
        return _estimate(table.loc[(place, ablation)], "drop")

    def plot(self) -> go.Figure:
        """How far the probability of the class falls in every condition, with intervals."""
        findings: dict[tuple[str, str], str] = {}
        for row in self.verdicts().to_dict("records"):
            findings[row["place"], row["ablation"]] = row["verdict"]
        return plot_faithfulness(
            self.conditions, protocol=self.protocol, concept=CONCEPT, findings=findings
        )

    def verdicts(self) -> pd.DataFrame:
        """One row for each place and ablation: whether the effect is specific, and by how much.

        ``control`` is the one that the concept is least clear of, ``p`` the p-value of the verdict,
        ``p_holm`` the same corrected for the number of rows, ``verdict`` what `is_specific` says,
        and what else is to say, in words.
        """
        table = verdicts(self.contrasts)
        specific: list[bool] = []
        words: list[str] = []
        for place, ablation in zip(table["place"], table["ablation"], strict=True):
            specific.append(self.is_specific(place, ablation))
            words.append("; ".join(self._findings(place, ablation)))
        return table.assign(specific=specific, verdict=words)

    def verdict(self) -> str:
        """In words: for each place and ablation, whether the effect is specific."""
        lines: list[str] = []
        for row in self.verdicts().to_dict("records"):
            [p] = told_apart(row["p_holm"], digits=2)
            first, *others = row["verdict"].split("; ")
            over = f"over {row['control']} by {_drop_shown(row)}, p {p}"
            findings = "; ".join([first, over, *others])
            lines.append(f"{row['place']}, {row['ablation']}: {findings}")
        tried = "1 verdict" if len(lines) == 1 else f"{len(lines)} verdicts"
        lines.append(
            f"{tried} tried and corrected for by Holm's method; {100 * self.level:.3g} % intervals "
            f"over {self.n_documents:,} documents and {_salient(self.n_salient_codes)}; "
            f"specific is a drop of more than {self.smallest_effect:g}"
        )
        return "\n".join(lines)

    def headline(self) -> str:
        """The protocol, how many texts, and what a probe is worth with and without the concept."""
        # The published protocol knows raw directions alone.
        ablation = "raw" if self.protocol == "paper" else "centered"
        before = self.value("probe", "", UNPERTURBED, "accuracy")
        after = self.value("probe", ablation, CONCEPT, "accuracy")
        return (
            f"{self.protocol} protocol, {self.n_texts:,} texts of {self.n_documents:,} documents, "
            f"{self.n_folds} folds, {_salient(self.n_salient_codes)}; {self._n_specific()}; "
            f"accuracy of a probe {before:.3f}, {after:.3f} without the concept ({ablation}), "
            f"chance {self.chance:.3f}"
        )

    def preview(self) -> pd.DataFrame:
        """One row for each place and ablation: the concept, its closest control, the verdict."""
        rows: list[dict[str, object]] = []
        for verdict in self.verdicts().to_dict("records"):
            place, ablation = verdict["place"], verdict["ablation"]
            rows.append(
                {
                    "place": place,
                    "ablation": ablation,
                    "accuracy": float(self.value(place, ablation, CONCEPT, "accuracy")),
                    "drop": float(self.value(place, ablation, CONCEPT, "drop")),
                    "over closest control": _drop_shown(verdict),
                    "closest control": verdict["control"],
                    "verdict": verdict["verdict"],
                }
            )
        return pd.DataFrame(rows)

    def _n_specific(self) -> str:
        """How many of the verdicts found an effect."""
        specific = self.verdicts()["specific"]
        return f"{specific.sum()} of {len(specific)} effects specific"

    def _findings(self, place: str, ablation: str) -> list[str]:
        """Whether the effect is specific, and what speaks against it."""
        findings = ["specific" if self.is_specific(place, ablation) else "no specific effect"]
        if bool(self._contrasts_of(place, ablation, classes=False)["drop_low"].isna().any()):
            findings[0] = "no verdict: it takes two documents and two salient codes"
        by_class = self._contrasts_of(place, ablation, classes=True)
        if len(by_class) and by_class["drop_low"].iloc[0] <= self.smallest_effect:
            findings.append(f"as much by a {OF_ANOTHER_CLASS}")
        if self.flips_classes(place, ablation):
            findings.append("classes are flipped, not lost")
        return findings

    def _contrasts_of(self, place: str, ablation: str, *, classes: bool) -> pd.DataFrame:
        """Contrasts with codes of another class, or with all other controls."""
        frame = self.contrasts.query("place == @place and ablation == @ablation")
        return frame.loc[(frame["control"] == OF_ANOTHER_CLASS) == classes]


def _salient(n_codes: int) -> str:
    return "1 salient code" if n_codes == 1 else f"{n_codes:,} salient codes"


def _drop_shown(row: dict[Any, Any]) -> str:
    return with_interval(row["drop"], row["drop_low"], row["drop_high"])


def _estimate(row: Any, column: str) -> Estimate:
    value, low, high = row[[column, f"{column}_low", f"{column}_high"]].to_numpy(dtype=float)
    return Estimate(float(value), float(low), float(high))
