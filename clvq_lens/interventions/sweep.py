"""Sweep: the effect of ablating each code."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch

from clvq_lens.arguments import CodeNames, check_flags, check_names, check_seed
from clvq_lens.data.documents import Data
from clvq_lens.errors import NothingChangesError
from clvq_lens.host.attachment import Attached, ready
from clvq_lens.interventions.codes import code_numbers
from clvq_lens.interventions.counterfactuals import Counterfactuals, run_on
from clvq_lens.interventions.edits import Ablate, Replacement
from clvq_lens.interventions.logit_metrics import LogitsFunction, Metric, bind, name_of
from clvq_lens.interventions.strings import strings_at_positions
from clvq_lens.plots.interventions import plot_ablations, plot_ablations_by_position
from clvq_lens.plots.text import spelled
from clvq_lens.showing import Shown
from clvq_lens.stats.matched import nearest_in_share

_N_TOKENS = 3  # different tokens that are named of each code
_N_AROUND = 4  # tokens of the context on each side of one


@dataclass(frozen=True, repr=False)
class AblationSweep(Shown):
    """The effect of ablating codes, one at a time.

    Attributes:
        metric: Name of the metric.
        unedited: The metric without the ablation.
        codes: The ablated code of each experiment.
        positions: Where it was ablated; None: everywhere.
        n_tokens: How many tokens that changed.
        values: The metric of each experiment; NaN where the code does not occur, so that nothing
            was taken away.
        controls: Mean effect of the same ablation of five other codes: those nearest in number of
            tokens, by ratio; by position, the five ablations of another code nearest in number of
            tokens and then in position. NaN if no other code was ablated.
        strings: Token at each position of the texts, an ellipsis where they differ.
        tokens: The commonest tokens of each ablated code in the texts.
        contexts: The first occurrence of the code, with a few tokens on each side.
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

    def headline(self) -> str:
        """How many ablations, and the largest effect."""
        n = len(self.codes)
        line = f"{n:,} {'ablation' if n == 1 else 'ablations'}, {self.metric}"
        if n == 0:
            return line
        largest = self.frame().iloc[0]
        where = "" if self.positions is None else f" at position {largest['position']}"
        return f"{line}: largest effect {largest['effect']:+.4g}, code {largest['code']}{where}"

    def preview(self) -> pd.DataFrame:
        """The largest effects."""
        return self.frame()

    def frame(self, names: CodeNames | None = None) -> pd.DataFrame:
        """One row for each experiment, the largest effect first.

        ``tokens`` are the commonest tokens of the code in the texts, and ``context`` is its first
        occurrence.

        Args:
            names: What codes mean, such as ``lens.concepts(texts).names()``.
        """
        frame = pd.DataFrame({"code": self.codes, "n_tokens": self.n_tokens, "value": self.values})
        frame["effect"] = frame["value"] - self.unedited
        if self.positions is not None:
            frame.insert(1, "position", self.positions)
            frame.insert(2, "token", [self.strings[position] for position in self.positions])
        frame["control"] = self.controls
        frame["tokens"] = self.tokens
        frame["context"] = self.contexts
        check_names(names)
        if names is not None:
            frame.insert(1, "name", [names.get(code, "") for code in self.codes])
        # Stable, so that equal effects stay in the order of the codes; NaN comes last.
        order = np.argsort(-np.abs(frame["effect"].to_numpy()), kind="stable")
        return frame.iloc[order].reset_index(drop=True)

    def plot(self, names: CodeNames | None = None, *, n_codes: int = 30) -> go.Figure:
        """Effects by code, beside their controls; by position, a heatmap of codes and tokens.

        Args:
            names: What codes mean, shown beside them.
            n_codes: How many of the codes with the largest effects.
        """
        frame = self.frame(names or {})
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

    Does this code matter, or would any such change do as much? The control of an ablation is the
    same ablation of other codes, by the same kind of replacement: the mean effect of the five that
    are nearest in how many tokens they change, by ratio (10 and 20 tokens are further apart than
    1,000 and 1,010). By position, the nearest positions come first among equals: in one text all
    change one token, and what a change does depends on how many tokens follow it. Each ablation is
    a control of others, so effects and controls are about equally large on average. Most effects
    are small and a few large, so the mean of five exceeds a single one more often than not: a code
    stands out by an effect far beyond its control.

    Args:
        lens: A fitted lens.
        data: A text, texts, or tokens [pos] or [batch, pos].
        metric: `logit_diff`, `probability`, `loss`, `kl`, or any function of logits
            [batch, pos, d_vocab] that returns one number.
        by_position: Whether a code is ablated at one position at a time.
        codes: The codes to ablate; None: all that are active. One that does not occur in the texts
            has no effect to measure, but NaN; by position it is left out.
        to: What takes the place of an ablated code, as for `Ablate`.
        seed: Random seed for ``to="resample"``.
        progress: Whether to show a progress bar.

    Returns:
        The effects beside their controls, with ``.frame()`` and ``.plot()``.

    Raises:
        NotFittedError: If the quantizer has not been fitted.
        CodeRangeError: If one of ``codes`` does not exist.
        ConfigError: If the seed is impossible.
        EmptyCorpusError: If the texts hold no real token.
        NothingChangesError: If none of ``codes`` occurs in the texts.
        MetricError: If the metric does not return one number.

    Example:
        >>> cl.ablation_sweep(lens, "The film was", cl.kl()).frame()  # doctest: +SKIP
    """
    attachment = ready(lens)
    check_seed(seed)
    check_flags(by_position=by_position)
    runs = run_on(attachment, data, metric)
    usage = _usage(runs)
    chosen = _chosen(codes, usage, runs)
    experiments = _AblationRuns(runs, bind(metric, runs.reference), to, seed, progress)
    if by_position:
        effects = experiments.by_position(chosen)
    else:
        effects = experiments.everywhere(chosen, usage)
    tokens, contexts = _occurrences(runs, effects.codes)
    return AblationSweep(
        metric=name_of(metric),
        unedited=experiments.unedited,
        codes=tuple(effects.codes),
        positions=None if effects.positions is None else tuple(effects.positions),
        n_tokens=tuple(effects.n_tokens),
        values=tuple(effects.values),
        controls=tuple(effects.controls),
        strings=strings_at_positions(runs.batch, runs.host),
        tokens=tokens,
        contexts=contexts,
    )


def _usage(runs: Counterfactuals) -> dict[int, int]:
    """How many tokens of the texts have each code; codes without any are left out."""
    codes, counts = runs.codes[runs.mask].unique(return_counts=True)
    return dict(zip(codes.tolist(), counts.tolist(), strict=True))


def _chosen(
    codes: Sequence[int] | None, usage: Mapping[int, int], runs: Counterfactuals
) -> list[int]:
    """The codes to ablate: those asked for, or all that occur, the commonest first."""
    if codes is None:
        return sorted(usage, key=lambda code: -usage[code])
    chosen = list(code_numbers(codes, runs.quantizer))
    if not usage.keys() & set(chosen):
        raise NothingChangesError(
            f"None of the codes {chosen} occurs in these texts, so ablating them changes nothing. "
            f"Those that do: {sorted(usage)}."
        )
    return chosen


@dataclass(frozen=True)
class _Ablations:
    """What was measured, with one entry of each list for each experiment."""

    codes: list[int]
    positions: list[int] | None
    n_tokens: list[int]
    values: list[float]
    controls: list[float]


class _AblationRuns:
    """Ablates one code after another in the same texts.

    Args:
        runs: The run whose codes are ablated.
        metric: A function of logits to one number.
        to: What takes the place of an ablated code.
        seed: Random seed for ``to="resample"``.
        progress: Whether to show a progress bar.
    """

    def __init__(
        self,
        runs: Counterfactuals,
        metric: LogitsFunction,
        to: Replacement,
        seed: int,
        progress: bool,
    ) -> None:
        self.runs, self.metric, self.progress = runs, metric, progress
        self.to: Replacement = to
        self.seed = seed
        self.unedited = float(metric(runs.outcome))

    def everywhere(self, codes: list[int], usage: Mapping[int, int]) -> _Ablations:
        """Each code ablated wherever it occurs, beside codes that occur about as often."""
        ablations = (Ablate(code, self.to, seed=self.seed) for code in codes)
        values = self._measured(ablations, len(codes))
        n_tokens = [usage.get(code, 0) for code in codes]
        for index, n in enumerate(n_tokens):
            # Nothing was taken away, and an effect of 0 would say that the code does not matter.
            if n == 0:
                values[index] = float("nan")
        controls = self._controls(codes, None, n_tokens, values)
        return _Ablations(codes, None, n_tokens, values, controls)

    def by_position(self, codes: list[int]) -> _Ablations:
        """Each code ablated at each position where it occurs, beside other codes near there."""
        ablated: list[int] = []
        positions: list[int] = []
        n_tokens: list[int] = []
        for code in codes:
            n_at_positions = (self.runs.codes == code).sum(0)
            for position in n_at_positions.nonzero().flatten().tolist():
                ablated.append(code)
                positions.append(position)
                n_tokens.append(int(n_at_positions[position]))
        ablations = (
            Ablate(code, self.to, at=position, seed=self.seed)
            for code, position in zip(ablated, positions, strict=True)
        )
        values = self._measured(ablations, len(ablated))
        controls = self._controls(ablated, positions, n_tokens, values)
        return _Ablations(ablated, positions, n_tokens, values, controls)

    def _measured(self, ablations: Iterable[Ablate], n: int) -> list[float]:
        # One at a time: each draft holds codes of all texts.
        drafts = (self.runs.edited(ablation) for ablation in ablations)
        return self.runs.measure(drafts, self.metric, n=n, desc="ablate", progress=self.progress)

    def _controls(
        self,
        codes: list[int],
        positions: list[int] | None,
        n_tokens: list[int],
        values: list[float],
    ) -> list[float]:
        """For each ablation, the mean effect of those of other codes that are matched to it."""
        # Codes that do not occur count 0, which leaves them out as controls.
        counts = np.array(n_tokens)
        effects = np.array(values) - self.unedited
        code_of = np.array(codes)
        position_of = None if positions is None else np.array(positions)
        controls: list[float] = []
        for index in range(len(codes)):
            # The same code at another position is no other code.
            is_other = code_of != code_of[index]
            apart = None if position_of is None else np.abs(position_of - position_of[index])
            matched = nearest_in_share(counts, index, allowed=is_other, apart=apart)
            controls.append(float(effects[matched].mean()) if len(matched) else float("nan"))
        return controls


def _occurrences(
    runs: Counterfactuals, codes: list[int]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """For each code its commonest tokens in the texts, and its first occurrence in context."""
    tokens, contexts = [], []
    for code in codes:
        occurrences = (runs.codes == code).nonzero().tolist()
        tokens.append(_commonest(runs, occurrences) if occurrences else "")
        contexts.append(_context(runs, *occurrences[0]) if occurrences else "")
    return tuple(tokens), tuple(contexts)


def _commonest(runs: Counterfactuals, occurrences: list[list[int]]) -> str:
    """The commonest tokens among some occurrences, by name."""
    counts = Counter(int(runs.batch.tokens[row, position]) for row, position in occurrences)
    commonest = [token for token, _ in counts.most_common(_N_TOKENS)]
    names = runs.host.vocabulary.names(torch.tensor(commonest))
    return " ".join(map(spelled, names))


def _context(runs: Counterfactuals, row: int, position: int) -> str:
    """A token in brackets, with a few tokens on each side."""
    around = slice(max(0, position - _N_AROUND), position + _N_AROUND + 1)
    real = runs.batch.mask[row, around]
    # Shown together, since one character may be spelled by several tokens.
    strings = runs.host.vocabulary.displayed(runs.batch.tokens[row, around][real])
    n_before = int(real[: min(position, _N_AROUND)].sum())
    # The space that belongs to the token stays outside of its brackets.
    space = " " if strings[n_before].startswith(" ") else ""
    strings[n_before] = f"{space}[{strings[n_before].removeprefix(' ')}]"
    return "".join(strings)
