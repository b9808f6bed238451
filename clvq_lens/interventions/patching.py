"""Concept patching: the effect of putting in, position by position, the codes of another run."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Int
from torch import Tensor

from clvq_lens.arguments import CodeNames, check_flags, check_seed
from clvq_lens.data.documents import Data
from clvq_lens.data.tokens import TokenBatch, one_batch, require_real
from clvq_lens.errors import LengthMismatchError, MetricError, NothingChangesError
from clvq_lens.host.attachment import Attached, Attachment, ready
from clvq_lens.interventions.codes import one_code
from clvq_lens.interventions.counterfactuals import Counterfactuals, random_codes
from clvq_lens.interventions.edits import Patch
from clvq_lens.interventions.logit_metrics import LogitsFunction, Metric, bind, columns_of, name_of
from clvq_lens.interventions.strings import strings_at_positions
from clvq_lens.plots.interventions import plot_patching
from clvq_lens.showing import Shown


@dataclass(frozen=True, repr=False)
class ConceptPatching(Shown):
    """The effect of patching codes of a clean run into a corrupted one, position by position.

    Attributes:
        metric: Name of the metric.
        clean: The metric of the clean run.
        corrupted: The metric of the corrupted run.
        values: The metric with the code of each position patched.
        controls: The same with random codes there, drawn from the corpus' shares.
        clean_codes: Codes of the clean run, [batch, pos].
        corrupted_codes: Codes of the corrupted run.
        clean_strings: Token at each position of the clean texts, an ellipsis where they differ.
        corrupted_strings: The same of the corrupted texts.
        n_changed: Texts whose code a patch changes at each position; where it is 0, the two runs
            share their codes, and the effect is 0 for that reason alone.
    """

    metric: str
    clean: float
    corrupted: float
    values: tuple[float, ...]
    controls: tuple[float, ...] | None
    clean_codes: tuple[tuple[int, ...], ...]
    corrupted_codes: tuple[tuple[int, ...], ...]
    clean_strings: tuple[str, ...]
    corrupted_strings: tuple[str, ...]
    n_changed: tuple[int, ...]

    def headline(self) -> str:
        """How many positions, the metric of both runs, and the largest effect."""
        n = len(self.values)
        line = (
            f"{n:,} {'position' if n == 1 else 'positions'}, {self.metric} "
            f"{self.corrupted:.4g} corrupted and {self.clean:.4g} clean"
        )
        if n == 0:
            return line
        effects = self._normalized(self.values)
        # Sorted and not argmax, which would take NaN for the largest.
        position = int(np.argsort(-np.abs(effects), kind="stable")[0])
        return f"{line}: largest effect {effects[position]:.4g} at position {position}"

    def preview(self) -> pd.DataFrame:
        """The effect at each position."""
        return self.frame()

    def frame(self, names: CodeNames | None = None) -> pd.DataFrame:
        """One row for each position; ``effect`` is 0 as corrupted, 1 as clean.

        Where ``n_changed`` is 0 both runs have the same codes: there is nothing to patch.

        Args:
            names: What codes mean, such as ``lens.concepts(texts).names()``.
        """
        frame = pd.DataFrame(
            {
                "position": range(len(self.values)),
                "clean_token": self.clean_strings,
                "corrupted_token": self.corrupted_strings,
                "clean_code": one_code(self.clean_codes),
                "corrupted_code": one_code(self.corrupted_codes),
                "n_changed": self.n_changed,
                "value": self.values,
                "effect": self._normalized(self.values),
            }
        )
        if self.controls is not None:
            frame["control"] = self._normalized(self.controls)
        if names is not None:
            for run in ("clean", "corrupted"):
                codes = frame[f"{run}_code"]
                frame[f"{run}_name"] = [names.get(code, "") for code in codes]
        return frame

    def _normalized(self, values: Sequence[float]) -> np.ndarray:
        return (np.array(values) - self.corrupted) / (self.clean - self.corrupted)

    def plot(self, names: CodeNames | None = None) -> go.Figure:
        """A heatmap over the tokens: the clean run's code, and random codes below it.

        Args:
            names: What codes mean, shown on hover.
        """
        return plot_patching(self.frame(names or {}), metric=self.metric)


def concept_patching(
    lens: Attached,
    clean: Data,
    corrupted: Data,
    metric: Metric | LogitsFunction,
    *,
    control: bool = True,
    seed: int = 0,
    progress: bool = True,
) -> ConceptPatching:
    """Patches the clean run's code into the corrupted run, at one position after another.

    Args:
        lens: A fitted lens.
        clean: A text, texts, or tokens [pos] or [batch, pos].
        corrupted: As many texts, of the same lengths in tokens.
        metric: `logit_diff`, `probability`, `loss`, or any function of logits that returns one
            number. For `kl`, the corrupted run is the reference.
        control: Whether random codes are patched in too, at the same positions.
        seed: Random seed for the random codes.
        progress: Whether to show a progress bar.

    Returns:
        The effect at each position, 0 as corrupted and 1 as clean, with ``.frame()`` and
        ``.plot()``.

    Raises:
        NotFittedError: If the quantizer has not been fitted.
        ConfigError: If the seed is impossible.
        EmptyCorpusError: If the texts hold no real token.
        LengthMismatchError: If the two differ in length.
        NothingChangesError: If both have the same code at every position.
        MetricError: If the metric is the same for both runs, so that nothing can be normalized.
    """
    attachment = ready(lens)
    check_seed(seed)
    check_flags(control=control)
    pair = _RunPair(attachment, clean, corrupted, metric)
    pair.require_effect()
    pair.require_other_codes()
    values = pair.patched(pair.clean_codes, "patch clean codes", progress)
    controls = None
    if control:
        random = random_codes(pair.corrupted, seed).masked_fill(~pair.where, -1)
        controls = pair.patched(random, "patch random codes", progress)
    return ConceptPatching(
        metric=pair.name,
        clean=pair.clean_value,
        corrupted=pair.corrupted_value,
        values=values,
        controls=controls,
        clean_codes=_rows(pair.clean_codes),
        corrupted_codes=_rows(pair.corrupted.codes),
        clean_strings=strings_at_positions(pair.clean.batch, attachment.host),
        corrupted_strings=strings_at_positions(pair.corrupted.batch, attachment.host),
        n_changed=tuple(pair.n_changed.tolist()),
    )


class _RunPair:
    """A clean and a corrupted run of texts of the same lengths.

    Args:
        attachment: A fitted quantizer on its model.
        clean: The clean texts.
        corrupted: The corrupted texts, into which codes are patched.
        metric: What is measured.

    Raises:
        LengthMismatchError: If the texts differ in length.
        EmptyCorpusError: If they hold no real token.
    """

    def __init__(
        self, attachment: Attachment, clean: Data, corrupted: Data, metric: Metric | LogitsFunction
    ) -> None:
        clean_batch = one_batch(attachment.host, clean)
        corrupted_batch = one_batch(attachment.host, corrupted)
        _check_lengths(clean_batch, corrupted_batch)
        require_real((clean_batch.mask & corrupted_batch.mask).sum())
        # The same columns for both, or a metric could not be applied to both outcomes.
        columns = columns_of(metric, [clean_batch, corrupted_batch])
        self.corrupted = Counterfactuals(attachment, corrupted_batch, columns=columns)
        self.clean = Counterfactuals(attachment, clean_batch, columns=columns)
        self.name, self.metric = name_of(metric), bind(metric, self.corrupted.reference)
        self.clean_value = float(self.metric(self.clean.outcome))
        self.corrupted_value = float(self.metric(self.corrupted.outcome))
        # Where a code acts in the corrupted run, and there is one of the clean run to put in.
        self.where = self.corrupted.mask & self.clean.mask
        self.clean_codes = self.clean.codes.masked_fill(~self.where, -1)

    @property
    def n_changed(self) -> Int[Tensor, " pos"]:
        """Texts whose codes differ at each position."""
        return ((self.clean_codes != self.corrupted.codes) & self.where).sum(0)

    def require_effect(self) -> None:
        """Raises `MetricError` if the metric is the same for both runs."""
        if self.clean_value == self.corrupted_value:
            raise MetricError(
                f"{self.name} is {self.clean_value:.6g} for the clean and for the corrupted run, "
                f"so there is no effect to restore. Choose a metric in which they differ."
            )

    def require_other_codes(self) -> None:
        """Raises `NothingChangesError` if both runs have the same code at every position."""
        if not self.n_changed.any():
            raise NothingChangesError(
                f"The clean and the corrupted texts have the same code of "
                f"{self.clean.attachment.name!r} at every position, so patching changes nothing. "
                f"The codes do not tell these texts apart: choose other words, a quantizer with "
                f"more codes, or another layer."
            )

    def patched(self, codes: Int[Tensor, "b pos"], desc: str, progress: bool) -> tuple[float, ...]:
        """The metric of the corrupted run with these codes at one position after another."""
        n = codes.shape[1]
        drafts = (self.corrupted.edited(Patch(codes, at=position)) for position in range(n))
        return tuple(self.corrupted.measure(drafts, self.metric, n=n, desc=desc, progress=progress))


def _rows(codes: Int[Tensor, "b pos"]) -> tuple[tuple[int, ...], ...]:
    return tuple(map(tuple, codes.tolist()))


def _check_lengths(clean: TokenBatch, corrupted: TokenBatch) -> None:
    clean_lengths = clean.attended.sum(1).tolist()
    corrupted_lengths = corrupted.attended.sum(1).tolist()
    if len(clean_lengths) != len(corrupted_lengths):
        raise LengthMismatchError(
            f"There are {len(clean_lengths)} clean and {len(corrupted_lengths)} corrupted texts. "
            f"Pass them in pairs."
        )
    pairs = zip(clean_lengths, corrupted_lengths, strict=True)
    for row, (n_clean, n_corrupted) in enumerate(pairs):
        if n_clean != n_corrupted:
            raise LengthMismatchError(
                f"Text {row} has {n_clean} tokens clean and {n_corrupted} corrupted, so positions "
                f"do not correspond. Choose words of as many tokens; "
                f"model.to_str_tokens(text) shows them."
            )
