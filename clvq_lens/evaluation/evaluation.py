"""Evaluation: every number beside its baseline."""

from dataclasses import dataclass
from html import escape

import pandas as pd

from clvq_lens.evaluation.norms import Norms
from clvq_lens.evaluation.recovery import Recovery
from clvq_lens.showing import Shown, told_apart
from clvq_lens.stats.estimates import Estimate

_MEANING = {
    "fvu": "fraction of the target's variance unexplained; 0 perfect, 1 the mean",
    "fvu_median": "the same of the median token: few tokens with large errors do not count",
    "fvu_random_codes": "control: codes drawn at random by their shares",
    "fvu_unquantized": "of the encoder's prediction itself, before any code is chosen",
    "fvu_shuffled_memory": "control: encoder memory shuffled, codes kept; near fvu: codes are used",
    "perplexity": "effective number of codes in use, of n_codes",
    "n_dead_codes": "codes that no token of these data chose",
    "n_outliers": "tokens left out of everything: activations over ten times as long as the median",
    "ce_clean": "cross-entropy of the model as it is, nats per token",
    "ce_spliced": "with the target replaced by the reconstruction",
    "ce_mean_ablated": "baseline: target replaced by its mean over the training tokens",
    "ce_zero_ablated": "baseline: target replaced by zero",
    "ce_loss_recovered": "1 splicing costs nothing, 0 as bad as the mean ablation",
    "ce_loss_recovered_unquantized": "the same of the encoder's prediction itself",
    "ce_loss_recovered_zero": "the same against the zero ablation, which flatters",
    "kl": "KL(clean || spliced) of what the model predicts, nats per token",
    "kl_unquantized": "the same of the encoder's prediction itself",
    "kl_mean_ablated": "baseline: KL(clean || mean-ablated)",
    "readout_kl": "KL(clean || spliced) of what the readout says, nats per text",
    "readout_kl_unquantized": "the same of the encoder's prediction itself",
    "readout_kl_mean_ablated": "baseline: KL(clean || mean-ablated) of what the readout says",
}


@dataclass(frozen=True, kw_only=True, repr=False)
class Evaluation(Shown):
    """How well codes stand for the target on some data; intervals are over documents.

    ``print`` shows all numbers. Those that were not asked for are None, and so are those that need
    the next token where the model does not predict it; ``left_out`` then says so.
    ``fvu_shuffled_memory`` is also None where the decoder has no
    memory, numbers of the unquantized prediction where the encoder predicts nothing, and those of a
    readout where none was given.

    Attributes:
        n_codes: Size of the codebook.
        n_tokens: Real tokens evaluated.
        n_documents: Documents evaluated.
        fvu: Fraction of variance unexplained; the baseline, the mean target, is 1.
        fvu_median: Squared error of the median token in units of the variance: the FVU of a token
            whose error is not among the few largest.
        fvu_random_codes: FVU with codes drawn at random by their shares: how much the decoder
            relies on codes.
        fvu_unquantized: FVU of a predictive encoder's output, the target given the source, before
            any code is chosen. A decoder of single tokens gets below it only where it corrects the
            prediction; one that reads sequences may.
        fvu_shuffled_memory: FVU with the encoder memory shuffled and codes kept.
        perplexity: Effective number of codes in use.
        n_dead_codes: Codes without a token in these data.
        n_outliers: Real tokens that are left out of all other numbers because their activation is
            too long; see `clvq_lens.FitConfig`.
        ce_clean: Cross-entropy of the model, nats per token.
        ce_spliced: With the target replaced by the reconstruction.
        ce_mean_ablated: With the target replaced by its mean over the training tokens.
        ce_zero_ablated: With the target replaced by zero.
        ce_loss_recovered: (mean-ablated - spliced) / (mean-ablated - clean).
        ce_loss_recovered_unquantized: The same with the prediction in place of the reconstruction.
        ce_loss_recovered_zero: The same with the zero ablation.
        kl: KL(clean || spliced), nats per token.
        kl_unquantized: KL(clean || target replaced by the prediction), nats per token.
        kl_mean_ablated: KL(clean || mean-ablated), nats per token.
        readout_kl: KL(clean || spliced) of the probabilities that a readout gives, nats per text.
        readout_kl_unquantized: The same with the prediction in place of the reconstruction.
        readout_kl_mean_ablated: The same with the mean in place of the reconstruction.
        norms: How long activations are, those of outliers too; None if that is not known.
        recovery: Concept recovery, if labels were given.
        left_out: Sentences that say which numbers are None because nobody asked for them, or
            because they mean nothing for this model or these data, or that one document has no
            intervals; None: nothing is missing.
    """

    n_codes: int
    n_tokens: int
    n_documents: int
    fvu: Estimate
    fvu_median: float
    fvu_random_codes: Estimate | None
    fvu_shuffled_memory: Estimate | None
    perplexity: float
    n_dead_codes: int
    n_outliers: int
    ce_clean: Estimate | None
    ce_spliced: Estimate | None
    ce_mean_ablated: Estimate | None
    ce_zero_ablated: Estimate | None
    ce_loss_recovered: Estimate | None
    ce_loss_recovered_zero: Estimate | None
    kl: Estimate | None
    kl_mean_ablated: Estimate | None
    fvu_unquantized: Estimate | None = None
    ce_loss_recovered_unquantized: Estimate | None = None
    kl_unquantized: Estimate | None = None
    readout_kl: Estimate | None = None
    readout_kl_unquantized: Estimate | None = None
    readout_kl_mean_ablated: Estimate | None = None
    norms: Norms | None = None
    recovery: Recovery | None = None
    left_out: str | None = None

    def frame(self) -> pd.DataFrame:
        """One row for each metric: value, ends of the 95 % interval, meaning.

        The ends are NaN for counts and medians, and for all metrics of a single document.
        """
        rows = []
        for name, meaning in _MEANING.items():
            value = getattr(self, name)
            if value is None:
                continue
            # Counts and medians are plain numbers, without an interval.
            low, high = getattr(value, "low", None), getattr(value, "high", None)
            rows.append((name, float(value), low, high, meaning))
        return pd.DataFrame(rows, columns=["metric", "value", "low", "high", "meaning"])

    def headline(self) -> str:
        """How much was measured, FVU and CE loss recovered, and what was left out."""
        numbers = f"{self._size}, FVU {self.fvu!r}"
        if self.ce_loss_recovered is not None:
            numbers += f", CE loss recovered {self.ce_loss_recovered!r}"
        return numbers if self.left_out is None else f"{numbers}. {self.left_out}"

    def __str__(self) -> str:
        head = self._size if self.left_out is None else f"{self._size}. {self.left_out}"
        parts = [head, self._frame_to_read().to_string(index=False)]
        if self.recovery is not None:
            parts.append(self.recovery.frame().round(3).to_string(index=False))
        return "\n".join(parts)

    def _repr_html_(self) -> str:
        # All metrics, although they are over ten: none of them means much without its baseline.
        html = f"<p><b>Evaluation</b>: {escape(self.headline())}</p>"
        html += self._frame_to_read().to_html(index=False)
        if self.recovery is not None:
            html += self.recovery.frame().round(3).to_html(index=False)
        return html

    def _frame_to_read(self) -> pd.DataFrame:
        """`frame` with numbers as text, short but never so short that an interval is lost."""
        frame = self.frame()
        columns = ["value", "low", "high"]
        texts = [told_apart(*row, digits=4) for row in frame[columns].astype(float).to_numpy()]
        frame[columns] = texts
        return frame

    @property
    def _size(self) -> str:
        outliers = f", {self.n_outliers:,} outliers left out" if self.n_outliers else ""
        return (
            f"{self.n_tokens:,} tokens of {self.n_documents:,} documents{outliers}, "
            f"{self.n_codes} codes"
        )
