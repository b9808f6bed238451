"""History: what happened during a fit."""

from dataclasses import asdict, dataclass, field, fields
from typing import Literal

import pandas as pd
import plotly.graph_objects as go

from clvq_lens.plots.training import plot_history
from clvq_lens.showing import Shown

_SHOWN = ["step", "n_tokens", "fvu", "held_out_fvu", "perplexity", "n_dead_codes"]

_CONVERGED = 0.01  # what the held-out FVU may still fall in the last fifth of a fit
_FEWEST_RECORDS = 5  # with fewer, none of them is at four fifths of the fit

Stop = Literal["finished", "early", "interrupted"]


@dataclass(frozen=True, kw_only=True, repr=False)
class Record(Shown):
    """State of a fit at one validation.

    Attributes:
        step: Optimizer steps so far.
        n_tokens: Real tokens trained on so far, repetitions counted.
        epoch: Completed passes over the data, after those of a predictive encoder.
        wall_s: Seconds since the start of the fit.
        learning_rate: At this step.
        fvu: Fraction of variance unexplained, over the training batches since the last record,
            with sampled codes.
        kl: KL(clean || spliced) of the same batches, nats per token; None unless trained on.
        commitment: Mean squared distance of encoder outputs to their code, per dimension.
        held_out_fvu: The same as ``fvu`` on held-out documents, with nearest codes; None if none
            were held out.
        held_out_kl: KL on held-out documents, nats per token; None unless trained on.
        perplexity: Effective number of codes in use over the training batches since the last
            record.
        n_dead_codes: Codes that none of those batches used.
        n_revived: Codes revived so far.
    """

    step: int
    n_tokens: int
    epoch: int
    wall_s: float
    learning_rate: float
    fvu: float
    kl: float | None
    commitment: float
    held_out_fvu: float | None
    held_out_kl: float | None
    perplexity: float
    n_dead_codes: int
    n_revived: int

    def headline(self) -> str:
        """Step, tokens so far, and FVU."""
        text = f"step {self.step:,}, {self.n_tokens:,} tokens, FVU {self.fvu:.4g}"
        if self.held_out_fvu is None:
            return text
        return f"{text}, held out {self.held_out_fvu:.4g}"


@dataclass(repr=False)
class History(Shown):
    """What happened during a fit.

    Attributes:
        records: One for every validation.
        stop: How it ended: "finished", "early" (no more improvement) or "interrupted" (Ctrl-C).
        best_step: Step whose weights were kept.
        n_tokens: Real tokens to train on in all, repetitions counted, had it not ended early.
        n_training_documents: Documents trained on in one pass.
        n_held_out_documents: Documents kept aside that validation reads; 0: nothing was held out.
        n_outliers: Training tokens, counted once, that were left out because their activation is
            too long; see `FitConfig`.
        seconds: How long each phase took: "activations" (reading them before the fit begins),
            "start" (of encoder and codebook), "encoder" (a predictive one), "fit", "validation" and
            "frozen pass". Of a resumed fit, since it was resumed.
    """

    records: list[Record] = field(default_factory=list)
    stop: Stop = "finished"
    best_step: int = 0
    n_tokens: int = 0
    n_training_documents: int = 0
    n_held_out_documents: int = 0
    n_outliers: int = 0
    seconds: dict[str, float] = field(default_factory=dict, compare=False)

    @property
    def last_fall(self) -> float | None:
        """By what share the held-out FVU fell in the last fifth of a fit that spent its tokens.

        None: it stopped early, or is validated too rarely to tell.
        """
        before = [one for one in self.records if one.n_tokens <= 0.8 * self.n_tokens]
        if self.stop != "finished" or len(self.records) < _FEWEST_RECORDS or not before:
            return None
        first, last = before[-1].held_out_fvu, self.records[-1].held_out_fvu
        return None if first is None or last is None or first == 0 else 1 - last / first

    @property
    def said_if_too_short(self) -> str:
        """What is said of a fit that was too short to have converged; empty if it was not."""
        fall = self.last_fall
        if fall is None or fall <= _CONVERGED:
            return ""
        return (
            f"too short to have converged: the held-out FVU still fell by {fall:.1%} in its last "
            f"fifth"
        )

    def require_whole(self) -> None:
        """Raises `KeyboardInterrupt` if Ctrl-C ended the fit early.

        For callers that give away no history, so that nobody takes part of a fit for all of it.
        """
        if self.stop == "interrupted":
            raise KeyboardInterrupt

    def headline(self) -> str:
        """How the fit ended, and the FVU of the weights that were kept."""
        text = f"{self.stop}, {len(self.records)} validations"
        if said := self.said_if_too_short:
            text += f", {said}"
        for record in self.records:
            if record.step == self.best_step:
                return f"{text}; weights of {record.headline()}"
        return text

    def preview(self) -> pd.DataFrame:
        """The main columns of the validations."""
        return pd.DataFrame(self.frame(), columns=_SHOWN)

    def frame(self) -> pd.DataFrame:
        """One row for every validation."""
        columns = [column.name for column in fields(Record)]
        return pd.DataFrame([asdict(record) for record in self.records], columns=columns)

    def plot(self) -> go.Figure:
        """FVU, perplexity and, if trained on, KL over the tokens seen."""
        return plot_history(self.frame())
