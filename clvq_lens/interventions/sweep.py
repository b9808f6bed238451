"""Sweeps: the effect of ablating each code, and of patching each position from another run."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from torch import Tensor

from clvq_lens.errors import LengthMismatchError, MetricError
from clvq_lens.host.attach import Attached
from clvq_lens.host.host import Host
from clvq_lens.interventions.edits import Ablate, Edit, Patch, Replacement, code_numbers
from clvq_lens.interventions.metrics import LogitsFunction, Metric, bind, columns_of, name_of
from clvq_lens.interventions.runs import Counterfactuals, fitted
from clvq_lens.plots.interventions import plot_ablations, plot_ablations_by_position, plot_patching
from clvq_lens.plots.text import spelled
from clvq_lens.training.documents import Data
from clvq_lens.training.tokens import TokenBatch, one_batch

Labels = Mapping[int, str] | None
_N_TOKENS = 3  # different tokens that are named of each code
_N_AROUND = 4  # tokens of the context on each side of one
_N_MATCHED = 5  # other codes of about the same usage that an ablated code is compared with


@dataclass(frozen=True)
class AblationSweep:
    """The effect of ablating codes, one at a time.

    Attributes:
        metric: Its name.
        unedited: The metric without the ablation.
        codes: The ablated code of each experiment.
        positions: Where it was ablated; None: everywhere.
        n_tokens: How many tokens that changed.
        values: The metric of each experiment.
        controls: Mean effect of the five other codes nearest in number of tokens; by position, the
            effect of a random code there, drawn by the shares in training.
        strings: What stands at each position of the texts.
        tokens: What each ablated code stands at in the texts, the commonest tokens.
        contexts: The first place where it stands, with a few tokens on each side.
    """

    metric: str
    unedited: float
    codes: tuple[int, ...]
    positions: tuple[int, ...] | None
    n_tokens: tuple[int, ...]
    values: tuple[float, ...]
    controls: tuple[float, ...]
    strings: tuple[str, ...]
    tokens: tuple[str, ...]
    contexts: tuple[str, ...]

    def frame(self, labels: Labels = None) -> pd.DataFrame:
        """One row for each experiment, the largest effect first.

        ``tokens`` are the commonest tokens of the code in the texts, and ``context`` is the first
        place where it stands.

        Args:
            labels: What codes mean, such as ``lens.concepts(texts).labels()``.
        """
        frame = pd.DataFrame({"code": self.codes, "n_tokens": self.n_tokens, "value": self.values})
        frame["effect"] = frame["value"] - self.unedited
        if self.positions is not None:
            frame.insert(1, "position", self.positions)
            frame.insert(2, "token", [self.strings[position] for position in self.positions])
        frame["control"] = self.controls
        frame["tokens"] = self.tokens
        frame["context"] = self.contexts
        if labels is not None:
            frame.insert(1, "label", [labels.get(code, "") for code in self.codes])
        order = np.argsort(-np.abs(frame["effect"].to_numpy()), kind="stable")
        return frame.iloc[order].reset_index(drop=True)

    def plot(self, labels: Labels = None, *, n_codes: int = 30) -> go.Figure:
        """Effects by code, beside their controls; by position, a heatmap of codes and tokens.

        Args:
            labels: What codes mean, shown beside them.
            n_codes: How many of the codes with the largest effects.
        """
        frame = self.frame(labels or {})
        if self.positions is None:
            return plot_ablations(frame, metric=self.metric, n_codes=n_codes)
        return plot_ablations_by_position(frame, self.strings, metric=self.metric, n_codes=n_codes)


def ablation_sweep(
    lens: Attached,
    data: Data,
    metric: Metric | LogitsFunction,
    *,
    by_position: bool = False,
    codes: Sequence[int] | None = None,
    to: Replacement = "nearest",
    seed: int = 0,
    progress: bool = True,
) -> AblationSweep:
    """The effect of ablating each code that is active in some texts, one at a time.

    Args:
        lens: A fitted lens.
        data: A text, texts, or tokens [pos] or [batch, pos].
        metric: `logit_diff`, `probability`, `loss`, `kl`, or any function of logits
            [batch, pos, d_vocab] that returns one number.
        by_position: Whether a code is ablated at one position at a time.
        codes: The codes to ablate; None: all that are active.
        to: What takes the place of an ablated code, as for `Ablate`.
        seed: Of the random codes that effects by position are compared with.
        progress: Whether to show a progress bar.

    Returns:
        The effects beside their controls, with ``.frame()`` and ``.plot()``.

    Raises:
        NotFittedError: If the quantizer has not been fitted.
        CodeRangeError: If one of ``codes`` does not exist.
        MetricError: If the metric does not return one number.

    Example:
        >>> cl.ablation_sweep(lens, "The film was", cl.kl()).frame()  # doctest: +SKIP
    """
    attachment = fitted(lens)
    batch = one_batch(attachment.host, data)
    runs = Counterfactuals(attachment, batch, columns=columns_of(metric, [batch]))
    active, counts = runs.codes[runs.batch.mask].unique(return_counts=True)
    usage = dict(zip(active.tolist(), counts.tolist(), strict=True))
    if codes is None:
        chosen = sorted(usage, key=lambda code: -usage[code])
    else:
        chosen = list(code_numbers(codes, runs.quantizer))
    function = bind(metric, runs.reference)

    def measured(edits: Iterable[Edit], what: str) -> list[float]:
        drafts = (runs.edited(edit) for edit in edits)
        return runs.measure(drafts, function, n=len(chosen), desc=what, progress=progress)

    unedited = float(function(runs.outcome))
    if by_position:
        pairs = [(code, position) for code in chosen for position in _positions_of(runs, code)]
        chosen, positions = [code for code, _ in pairs], [position for _, position in pairs]
        values = measured((Ablate(code, to, at=position) for code, position in pairs), "ablate")
        random = _random_codes(runs, seed)
        there = (Patch(random.masked_fill(runs.codes != code, -1), at=p) for code, p in pairs)
        controls = [value - unedited for value in measured(there, "random codes")]
    else:
        positions = None
        values = measured((Ablate(code, to) for code in chosen), "ablate")
        controls = _matched(usage, chosen, values, unedited)
    where = [_where(runs, code) for code in chosen]
    return AblationSweep(
        metric=name_of(metric),
        unedited=unedited,
        codes=tuple(chosen),
        positions=None if positions is None else tuple(positions),
        n_tokens=_n_tokens(runs, chosen, positions),
        values=tuple(values),
        controls=tuple(controls),
        strings=token_labels(runs.batch, runs.host),
        tokens=tuple(tokens for tokens, _ in where),
        contexts=tuple(context for _, context in where),
    )


def _where(runs: Counterfactuals, code: int) -> tuple[str, str]:
    """The commonest tokens of a code in the texts, and the first of them in its context."""
    vocabulary, batch = runs.host.vocabulary, runs.batch
    places = ((runs.codes == code) & batch.mask).nonzero().tolist()
    if not places:
        return "", ""
    counts = Counter(int(batch.tokens[row, position]) for row, position in places)
    commonest = [token for token, _ in counts.most_common(_N_TOKENS)]
    names = [spelled(name) for name in vocabulary.names(torch.tensor(commonest))]
    row, position = places[0]
    real = batch.mask[row, max(0, position - _N_AROUND) : position + _N_AROUND + 1]
    tokens = batch.tokens[row, max(0, position - _N_AROUND) : position + _N_AROUND + 1]
    before = int(real[: min(position, _N_AROUND)].sum())
    strings = vocabulary.displayed(tokens[real])
    space = " " if strings[before].startswith(" ") else ""
    strings[before] = f"{space}[{strings[before].removeprefix(' ')}]"
    return " ".join(names), "".join(strings)


def _positions_of(runs: Counterfactuals, code: int) -> list[int]:
    return (runs.codes == code).any(0).nonzero().flatten().tolist()


def _n_tokens(
    runs: Counterfactuals, codes: list[int], positions: list[int] | None
) -> tuple[int, ...]:
    """How many tokens each experiment takes the code from."""
    if positions is None:
        return tuple(int((runs.codes == code).sum()) for code in codes)
    pairs = zip(codes, positions, strict=True)
    return tuple(int((runs.codes[:, position] == code).sum()) for code, position in pairs)


def _matched(
    usage: dict[int, int], codes: list[int], values: list[float], unedited: float
) -> list[float]:
    """For each code, the mean effect of the others that are nearest in number of tokens."""
    counts = np.array([usage.get(code, 0) for code in codes])
    effects = np.array(values) - unedited
    controls = []
    for index in range(len(codes)):
        distance = np.abs(counts - counts[index]).astype(float)
        distance[index] = np.inf
        nearest = np.argsort(distance, kind="stable")[: min(_N_MATCHED, len(codes) - 1)]
        controls.append(float(effects[nearest].mean()) if len(nearest) else float("nan"))
    return controls


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

    def frame(self, labels: Labels = None) -> pd.DataFrame:
        """One row for each position; ``effect`` is 0 as corrupted, 1 as clean.

        Args:
            labels: What codes mean, such as ``lens.concepts(texts).labels()``.
        """
        frame = pd.DataFrame(
            {
                "position": range(len(self.values)),
                "clean_token": self.clean_strings,
                "corrupted_token": self.corrupted_strings,
                "clean_code": _one_code(self.clean_codes),
                "corrupted_code": _one_code(self.corrupted_codes),
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
        LengthMismatchError: If the two differ in length.
        MetricError: If the metric is the same for both runs, so that nothing can be normalised.
    """
    attachment = fitted(lens)
    good, bad = one_batch(attachment.host, clean), one_batch(attachment.host, corrupted)
    _check_lengths(good, bad)
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
    where = good.mask & bad.mask

    def patched(codes: Tensor, what: str) -> list[float]:
        drafts = (runs.edited(Patch(codes, at=p)) for p in range(where.shape[1]))
        n = where.shape[1]
        return runs.measure(drafts, function, n=n, desc=f"patch {what}", progress=progress)

    clean_codes = other.codes.masked_fill(~where, -1)
    random = _random_codes(runs, seed).masked_fill(~where, -1)
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


def _random_codes(runs: Counterfactuals, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = runs.batch.tokens.shape
    shares = runs.quantizer.shares.cpu()
    drawn = torch.multinomial(shares, shape.numel(), replacement=True, generator=generator)
    return drawn.view(shape)


def token_labels(batch: TokenBatch, host: Host) -> tuple[str, ...]:
    """What stands at each position: the token if all texts agree, else an ellipsis."""
    rows = [
        host.vocabulary.displayed(tokens[attended])
        for tokens, attended in zip(batch.tokens, batch.attended, strict=True)
    ]
    labels = []
    for position in range(batch.tokens.shape[1]):
        found = {row[position] for row in rows if position < len(row)}
        labels.append(found.pop() if len(found) == 1 else "\u2026")
    return tuple(labels)


def _one_code(codes: Sequence[Sequence[int]]) -> list[int]:
    """The code at each position; -1 where texts differ, or none counts."""
    columns = zip(*codes, strict=True)
    return [column[0] if len(set(column)) == 1 else -1 for column in columns]
