"""Sweep: the effect of ablating each code."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch

from clvq_lens.arguments import check_flags, check_names, check_seed
from clvq_lens.errors import NothingChangesError
from clvq_lens.host.attach import Attached
from clvq_lens.host.host import Host
from clvq_lens.interventions.codes import code_numbers
from clvq_lens.interventions.edits import Ablate, Edit, Patch, Replacement
from clvq_lens.interventions.metrics import LogitsFunction, Metric, bind, columns_of, name_of
from clvq_lens.interventions.runs import Counterfactuals, fitted, random_codes, require_real
from clvq_lens.plots.interventions import plot_ablations, plot_ablations_by_position
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
        values: The metric of each experiment; NaN where the code does not occur, so that nothing
            was taken away.
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
        check_names(labels)
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
        codes: The codes to ablate; None: all that are active. One that does not occur in the texts
            has no effect to measure, but NaN; by position it is left out.
        to: What takes the place of an ablated code, as for `Ablate`.
        seed: Of the random codes that effects by position are compared with.
        progress: Whether to show a progress bar.

    Returns:
        The effects beside their controls, with ``.frame()`` and ``.plot()``.

    Raises:
        NotFittedError: If the quantizer has not been fitted.
        CodeRangeError: If one of ``codes`` does not exist.
        ConfigError: If there cannot be such a seed.
        EmptyCorpusError: If the texts hold no real token.
        NothingChangesError: If none of ``codes`` occurs in the texts.
        MetricError: If the metric does not return one number.

    Example:
        >>> cl.ablation_sweep(lens, "The film was", cl.kl()).frame()  # doctest: +SKIP
    """
    attachment = fitted(lens)
    check_seed(seed)
    check_flags(by_position=by_position)
    batch = one_batch(attachment.host, data)
    require_real(batch)
    runs = Counterfactuals(attachment, batch, columns=columns_of(metric, [batch]))
    runs.require_tokens()
    active, counts = runs.codes[runs.mask].unique(return_counts=True)
    usage = dict(zip(active.tolist(), counts.tolist(), strict=True))
    if codes is None:
        chosen = sorted(usage, key=lambda code: -usage[code])
    else:
        chosen = list(code_numbers(codes, runs.quantizer))
        _check_some_occur(chosen, usage)
    function = bind(metric, runs.reference)

    def measured(edits: Iterable[Edit], what: str) -> list[float]:
        drafts = (runs.edited(edit) for edit in edits)
        return runs.measure(drafts, function, n=len(chosen), desc=what, progress=progress)

    unedited = float(function(runs.outcome))
    if by_position:
        pairs = [(code, position) for code in chosen for position in _positions_of(runs, code)]
        chosen, positions = [code for code, _ in pairs], [position for _, position in pairs]
        values = measured((Ablate(code, to, at=position) for code, position in pairs), "ablate")
        random = random_codes(runs, seed)
        there = (Patch(random.masked_fill(runs.codes != code, -1), at=p) for code, p in pairs)
        controls = [value - unedited for value in measured(there, "random codes")]
    else:
        positions = None
        values = measured((Ablate(code, to) for code in chosen), "ablate")
        values = [
            value if code in usage else float("nan")
            for code, value in zip(chosen, values, strict=True)
        ]
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


def _check_some_occur(codes: Sequence[int], usage: Mapping[int, int]) -> None:
    if not usage.keys() & set(codes):
        raise NothingChangesError(
            f"None of the codes {list(codes)} occurs in these texts, so ablating them changes "
            f"nothing. Those that do: {sorted(usage)}."
        )


def _where(runs: Counterfactuals, code: int) -> tuple[str, str]:
    """The commonest tokens of a code in the texts, and the first of them in its context."""
    vocabulary, batch = runs.host.vocabulary, runs.batch
    places = (runs.codes == code).nonzero().tolist()
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
        distance[np.isnan(effects)] = np.inf  # codes that do not occur
        n_others = int(np.isfinite(distance).sum())
        nearest = np.argsort(distance, kind="stable")[: min(_N_MATCHED, n_others)]
        controls.append(float(effects[nearest].mean()) if len(nearest) else float("nan"))
    return controls


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
