"""What is measured of one method: reconstruction, effect, agreement with labels, faithfulness."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from clvq_lens.comparison.described import NO_DECODER, UNQUANTIZED
from clvq_lens.comparison.stability import stability
from clvq_lens.data.token_labels import TokenLabels
from clvq_lens.evaluation.ablation_costs import AblationCosts
from clvq_lens.evaluation.evaluate import evaluate_beside
from clvq_lens.evaluation.evaluation import Evaluation
from clvq_lens.faithfulness.case import Case, CaseOptions, prepare
from clvq_lens.faithfulness.classified_texts import ClassifiedTexts
from clvq_lens.faithfulness.faithfulness import Faithfulness
from clvq_lens.faithfulness.folds import ProtocolName
from clvq_lens.faithfulness.protocols import judge
from clvq_lens.lens import Lens
from clvq_lens.readouts.salience import Cut

_OF_EVALUATION = ("fvu", "ce_loss_recovered", "kl", "readout_kl", "perplexity", "n_dead_codes")
JUDGING = ("n_draws", "n_model_draws", "smallest_effect")
"""Options of `judge`, not of `prepare`."""


class Measurement:
    """Everything that is measured of one fit."""

    def __init__(
        self,
        texts: Sequence[Any],
        classified: ClassifiedTexts | None,
        token_labels: TokenLabels | None,
        long_texts: Cut,
        seed: int,
        progress: bool,
        options: Mapping[str, Any],
        ablation_costs: AblationCosts,
    ) -> None:
        self._texts, self._classified = list(texts), classified
        self._token_labels = token_labels
        self._long_texts: Cut = long_texts
        self._seed, self._progress = seed, progress
        self._case_options: dict[str, Any] = {}
        self._judging_options: dict[str, Any] = {}
        for name, value in options.items():
            if name in JUDGING:
                self._judging_options[name] = value
            else:
                self._case_options[name] = value
        self._cases: dict[tuple[str, ProtocolName], Case] = {}
        self._stabilities: dict[str, float] = {}
        self._ablation_costs = ablation_costs

    def of_fit(
        self, method: str, decoder: str, number: int, lens: Lens
    ) -> tuple[pd.DataFrame, Faithfulness | None]:
        """All metrics of one fit of a method with a decoder, and faithfulness of the first fit.

        Rows for what a predictive encoder gives before its output is quantized are among them.

        Args:
            method: Name of the method.
            decoder: Kind of the decoder.
            number: Number of the fit.
            lens: The fit.
        """
        evaluation = self.evaluate(lens)
        judged, values = self._faithfulness(lens)
        rows = rows_of(method, decoder, number, of_evaluation(evaluation) | values)
        rows += rows_of(UNQUANTIZED, NO_DECODER, number, unquantized(evaluation))
        return pd.DataFrame(rows), judged if number == 0 else None

    def of_all_fits(self, method: str, decoder: str, fits: list[Lens]) -> tuple[pd.DataFrame, None]:
        """The stability of two fits or more of a method with a decoder."""
        # Of all fits together, not of one of them: so it has a number of its own.
        rows = rows_of(method, decoder, -1, {"stability": self._stability(method, fits)})
        return pd.DataFrame(rows), None

    def of_prediction(self, number: int, lens: Lens) -> tuple[pd.DataFrame, None]:
        """The rows for what a predictive encoder gives before its output is quantized."""
        rows = rows_of(UNQUANTIZED, NO_DECODER, number, unquantized(self.evaluate(lens)))
        return pd.DataFrame(rows), None

    def evaluate(self, lens: Lens) -> Evaluation:
        """Reconstruction, effect in the model, and recovery of labels if there are any."""
        return evaluate_beside(
            self._ablation_costs,
            lens,
            self._texts,
            token_labels=self._token_labels,
            readout=self._case_options.get("readout"),
            long_texts=self._long_texts,
            seed=self._seed,
            progress=self._progress,
        )

    def _stability(self, method: str, fits: list[Lens]) -> float:
        """Agreement of codes between fits; they are the same whatever decodes them."""
        if method not in self._stabilities:
            agreement_of_fits = stability(
                {method: fits},
                self._texts,
                long_texts=self._long_texts,
                seed=self._seed,
                progress=self._progress,
            )
            self._stabilities[method] = agreement_of_fits.ami[method]
        return self._stabilities[method]

    def _faithfulness(self, lens: Lens) -> tuple[Faithfulness | None, dict[str, float]]:
        """By the honest protocol, and numbers by both; nothing if texts have no classes."""
        if self._classified is None:
            return None, {}
        published = self._judged(lens, self._classified, "paper")
        honest = self._judged(lens, self._classified, "honest")
        return honest, _of_faithfulness(published, honest)

    def _judged(self, lens: Lens, texts: ClassifiedTexts, protocol: ProtocolName) -> Faithfulness:
        """By a case that is prepared once for all methods that read the same hook point."""
        key = lens.source, protocol
        if key not in self._cases:
            given = dict(self._case_options)
            if protocol == "paper":
                given.pop("n_folds", None)  # the published number of folds
            options = CaseOptions(
                protocol=protocol, long_texts=self._long_texts, seed=self._seed, **given
            )
            self._cases[key] = prepare(
                lens.host, lens.source, texts, options, progress=self._progress
            )
        return judge(
            self._cases[key],
            lens,
            **self._judging_options,
            seed=self._seed,
            progress=self._progress,
        )


def of_evaluation(evaluation: Evaluation) -> dict[str, float | None]:
    """The numbers of an evaluation that methods are compared by."""
    values: dict[str, float | None] = {}
    for metric in _OF_EVALUATION:
        values[metric] = getattr(evaluation, metric)
    for row in evaluation.recovery.rows if evaluation.recovery is not None else ():
        which = "" if row.tokens == "all" else f"_{row.tokens}"
        if row.method == "codes":
            for metric in ("ami", "nmi", "purity"):
                values[f"{metric}{which}"] = getattr(row, metric)
        elif row.method == "codes, labels shuffled":  # AMI has no need of it: it is 0 by chance
            for metric in ("nmi", "purity"):
                values[f"{metric}{which}_shuffled"] = getattr(row, metric)
    return values


def unquantized(evaluation: Evaluation) -> dict[str, float | None]:
    """The same of the prediction before it is quantized; nothing if there is none."""
    values: dict[str, float | None] = {}
    for metric in _OF_EVALUATION:
        values[metric] = getattr(evaluation, f"{metric}_unquantized", None)
    return values


def _of_faithfulness(published: Faithfulness, honest: Faithfulness) -> dict[str, float]:
    """The numbers of both protocols that methods are compared by."""
    values: dict[str, float] = {
        "n_salient_codes": float(honest.n_salient_codes),
        "published_accuracy": published.value("probe", "", "unperturbed", "accuracy"),
        "published_removed": published.value("probe", "raw", "concept", "accuracy"),
        "retrained": honest.value("probe", "raw", "concept", "retrained"),
    }
    for metric, place, ablation in (
        ("probe_drop", "probe", "centered"),
        ("model_drop", "model", "centered"),
        ("code_drop", "model", "code"),
    ):
        values[metric] = honest.value(place, ablation, "concept", "drop")
        values[f"{metric}_specific"] = honest.least_contrast(place, ablation)
    return values


def _short(number: float) -> float:
    """Six digits, since files keep thousands of them."""
    return float(f"{number:.6g}")


def rows_of(
    method: str, decoder: str, number: int, values: Mapping[str, float | None]
) -> list[dict[str, object]]:
    """One row of `Comparison.fits` for each value that there is.

    Args:
        method: Name of the method.
        decoder: Kind of its decoder.
        number: Number of the fit.
        values: Values by metric.
    """
    rows: list[dict[str, object]] = []
    for metric, value in values.items():
        if value is None:
            continue
        row: dict[str, object] = {"method": method, "decoder": decoder, "fit": number}
        row |= {"metric": metric, "value": float(value)}
        # A number without an interval, such as the count of dead codes, is its own interval.
        row["low"] = getattr(value, "low", float(value))
        row["high"] = getattr(value, "high", float(value))
        # What its difference from another method's takes; nothing for what is not over documents.
        row["influences"] = list(map(_short, getattr(value, "influences", ())))
        row["freedom"] = getattr(value, "freedom", math.nan)
        rows.append(row)
    return rows
