"""Concept patching: the effect of putting in, position by position, the codes of another run."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Int
from torch import Tensor

from clvq_lens.arguments import check_flags, check_seed
from clvq_lens.errors import LengthMismatchError, MetricError, NothingChangesError
from clvq_lens.host.attach import Attached
from clvq_lens.interventions.codes import one_code
from clvq_lens.interventions.edits import Patch
from clvq_lens.interventions.metrics import LogitsFunction, Metric, bind, columns_of, name_of
from clvq_lens.interventions.runs import Counterfactuals, fitted, random_codes, require_real
from clvq_lens.interventions.sweep import Labels, token_labels
from clvq_lens.plots.interventions import plot_patching
from clvq_lens.training.documents import Data
from clvq_lens.training.tokens import TokenBatch, one_batch


@dataclass(frozen=True)
class ConceptPatching:
    """The effect of patching codes of a clean run into a corrupted one, position by position.

    Attributes:
        metric: Its name.
        clean: The metric of the clean run.
        corrupted: The metric of the corrupted run.
        values: The metric with the code of each position patched.
        controls: The same with random codes there, drawn from the corpus' shares.
        clean_codes: Codes of the clean run, [batch, pos].
        corrupted_codes: Codes of the corrupted run.
        clean_strings: What stands at each position of the clean texts.
        corrupted_strings: What stands at each position of the corrupted texts.
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

    def frame(self, labels: Labels = None) -> pd.DataFrame:
        """One row for each position; ``effect`` is 0 as corrupted, 1 as clean.

        Where ``n_changed`` is 0 both runs have the same codes: there is nothing to patch.

        Args:
            labels: What codes mean, such as ``lens.concepts(texts).labels()``.
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
                "effect": self._normalised(self.values),
            }
        )
        if self.controls is not None:
            frame["control"] = self._normalised(self.controls)
        if labels is not None:
            for run in ("clean", "corrupted"):
                codes = frame[f"{run}_code"]
                frame[f"{run}_label"] = [labels.get(code, "") for code in codes]
        return frame

    def _normalised(self, values: Sequence[float]) -> np.ndarray:
        return (np.array(values) - self.corrupted) / (self.clean - self.corrupted)

    def plot(self, labels: Labels = None) -> go.Figure:
        """A heatmap over the tokens: the clean run's code, and random codes below it.

        Args:
            labels: What codes mean, shown on hover.
        """
        return plot_patching(self.frame(labels or {}), metric=self.metric)


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
        seed: Of the random codes.
        progress: Whether to show a progress bar.

    Returns:
        The effect at each position, 0 as corrupted and 1 as clean, with ``.frame()`` and
        ``.plot()``.

    Raises:
        NotFittedError: If the quantizer has not been fitted.
        ConfigError: If there cannot be such a seed.
        EmptyCorpusError: If the texts hold no real token.
        LengthMismatchError: If the two differ in length.
        NothingChangesError: If both have the same code at every position.
        MetricError: If the metric is the same for both runs, so that nothing can be normalised.
    """
    attachment = fitted(lens)
    check_seed(seed)
    check_flags(control=control)
    good, bad = one_batch(attachment.host, clean), one_batch(attachment.host, corrupted)
    _check_lengths(good, bad)
    require_real(replace(bad, mask=good.mask & bad.mask))
    columns = columns_of(metric, [good, bad])
    runs = Counterfactuals(attachment, bad, columns=columns)
    other = Counterfactuals(attachment, good, columns=columns)
    function = bind(metric, runs.reference)
    at_clean, at_corrupted = float(function(other.outcome)), float(function(runs.outcome))
    if at_clean == at_corrupted:
        raise MetricError(
            f"{name_of(metric)} is {at_clean:.6g} for the clean and for the corrupted run, so "
            f"there is no effect to restore. Choose a metric in which they differ."
        )
    where = runs.mask & other.mask  # where a patch acts, and knows by what
    clean_codes = other.codes.masked_fill(~where, -1)
    n_changed = ((clean_codes != runs.codes) & where).sum(0)
    _check_some_differ(n_changed, attachment.name)

    def patched(codes: Tensor, what: str) -> list[float]:
        drafts = (runs.edited(Patch(codes, at=p)) for p in range(where.shape[1]))
        n = where.shape[1]
        return runs.measure(drafts, function, n=n, desc=f"patch {what}", progress=progress)

    random = random_codes(runs, seed).masked_fill(~where, -1)
    return ConceptPatching(
        metric=name_of(metric),
        clean=at_clean,
        corrupted=at_corrupted,
        values=tuple(patched(clean_codes, "clean codes")),
        controls=tuple(patched(random, "random codes")) if control else None,
        clean_codes=tuple(map(tuple, clean_codes.tolist())),
        corrupted_codes=tuple(map(tuple, runs.codes.tolist())),
        clean_strings=token_labels(good, runs.host),
        corrupted_strings=token_labels(bad, runs.host),
        n_changed=tuple(n_changed.tolist()),
    )


def _check_some_differ(n_changed: Int[Tensor, " pos"], name: str) -> None:
    if not n_changed.any():
        raise NothingChangesError(
            f"The clean and the corrupted texts have the same code of {name!r} at every position, "
            f"so patching changes nothing. The codes do not tell these texts apart: choose other "
            f"words, a quantizer with more codes, or another layer."
        )


def _check_lengths(clean: TokenBatch, corrupted: TokenBatch) -> None:
    lengths = [batch.attended.sum(1).tolist() for batch in (clean, corrupted)]
    if len(lengths[0]) != len(lengths[1]):
        raise LengthMismatchError(
            f"There are {len(lengths[0])} clean and {len(lengths[1])} corrupted texts. "
            f"Pass them in pairs."
        )
    for row, (n_clean, n_corrupted) in enumerate(zip(*lengths, strict=True)):
        if n_clean != n_corrupted:
            raise LengthMismatchError(
                f"Text {row} has {n_clean} tokens clean and {n_corrupted} corrupted, so positions "
                f"do not correspond. Choose words of as many tokens; "
                f"model.to_str_tokens(text) shows them."
            )
