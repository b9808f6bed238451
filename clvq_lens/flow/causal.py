"""How concepts flow through several quantizers: what ablating one does to the next."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import networkx as nx
import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from clvq_lens.arguments import check_count
from clvq_lens.config import LongTexts
from clvq_lens.data.documents import Data, open_documents
from clvq_lens.data.tokens import TokenBatch, require_real, token_batches
from clvq_lens.errors import ConfigError, LayerOrderError
from clvq_lens.flow.chain import fitted_chain
from clvq_lens.host.attachment import Attachment
from clvq_lens.interventions.counterfactuals import Counterfactuals
from clvq_lens.interventions.edits import Ablate, Replacement
from clvq_lens.plots.flow_diagrams import plot_causal_flow
from clvq_lens.quantizer.draft import Draft
from clvq_lens.showing import Shown
from clvq_lens.stats.matched import N_MATCHED, nearest_in_share

_NORMAL_95 = 1.959964  # standard errors to each end of a 95 % interval


@dataclass(frozen=True)
class CausalStep:
    """What ablating the codes of one quantizer does to the codes of the next.

    Attributes:
        source: Name of the first quantizer.
        target: Name of the second.
        n_tokens: Tokens in each code of the first, [a].
        n_next: Tokens in each code of the second, [b].
        joint: Tokens in both, at the same position, [a, b].
        effect: Tokens of a code of the second gained (or lost: negative) per token of a code of
            the first that was ablated, [a, b]; NaN where there was none.
        error: Standard error of the effect over documents, [a, b]; NaN where a single document
            has the code.
        lost: Fraction of the tokens in both that leave the code of the second when the code of the
            first is ablated, [a, b]; NaN where no token is in both.
        control: Mean of ``lost`` over the other codes of the first that occur with the code of the
            second about as often, [a, b]; NaN where no other code does.
    """

    source: str
    target: str
    n_tokens: Int[np.ndarray, " a"]
    n_next: Int[np.ndarray, " b"]
    joint: Int[np.ndarray, "a b"]
    effect: Float[np.ndarray, "a b"]
    error: Float[np.ndarray, "a b"]
    lost: Float[np.ndarray, "a b"]
    control: Float[np.ndarray, "a b"]


@dataclass(frozen=True, repr=False)
class CausalFlow(Shown):
    """Observed and causal flow of concepts, from each quantizer to the next one.

    Attributes:
        steps: One for each pair of quantizers that follow each other.
    """

    steps: tuple[CausalStep, ...]

    def frame(self) -> pd.DataFrame:
        """One row for each pair of codes that occur together or move each other.

        ``observed`` is the chance of the second code given the first, at the same token, and
        ``expected`` its chance anywhere. ``effect`` is how many tokens the second code gains per
        ablated token of the first, with a 95 % interval over documents. ``lost`` is the fraction of
        the tokens in both that leave the second code, and ``control`` is the same where codes that
        occur with the second code about as often are ablated instead.
        """
        frames = [_step_frame(step) for step in self.steps]
        frame = pd.concat(frames, ignore_index=True)
        # Stable, so that equal effects stay in order of steps and codes.
        order = np.argsort(-np.abs(frame["effect"].to_numpy()), kind="stable")
        return frame.iloc[order].reset_index(drop=True)

    def summary(self) -> pd.DataFrame:
        """For each step, what ablating a code does to the code that most often follows it.

        Means over the codes of the first quantizer, weighted by their tokens. ``observed`` and
        ``effect`` are those of all ``n_codes``; ``lost`` and ``control`` are those of the
        ``n_with_control`` codes that have a control, so that both are of the same codes. The others
        have a follower that occurs with no other code.
        """
        return pd.DataFrame([_step_summary(step) for step in self.steps])

    def to_networkx(self) -> nx.DiGraph:
        """A graph of codes, ``(quantizer, code)``, with every row of `frame` as an edge.

        Nodes have ``n_tokens``; edges have ``n_both``, ``observed``, ``expected``, ``effect``,
        ``low``, ``high``, ``lost`` and ``control``.
        """
        graph = nx.DiGraph()
        for step in self.steps:
            for name, counts in ((step.source, step.n_tokens), (step.target, step.n_next)):
                for code in np.flatnonzero(counts).tolist():
                    graph.add_node((name, code), n_tokens=int(counts[code]))
        # Tokens belong to nodes; left in the rows, they would be written on every edge.
        for row in self.frame().drop(columns="n_tokens").to_dict("records"):
            source = row.pop("source"), row.pop("code")
            target = row.pop("target"), row.pop("next_code")
            graph.add_edge(source, target, **row)
        return graph

    def plot(self) -> go.Figure:
        """Causal against observed flow, each pair of codes a point, beside its control."""
        return plot_causal_flow(self.frame())

    def headline(self) -> str:
        """The quantizers, how many tokens went through them, and the effect of the first step."""
        summary = self.summary()
        first = summary.iloc[0]
        names = " -> ".join([first["source"], *summary["target"]])
        line = (
            f"{names}, {int(self.steps[0].n_tokens.sum()):,} tokens; ablating a code of "
            f"{first['source']} changes its main follower by {first['effect']:+.2f} tokens per "
            f"token"
        )
        if first["n_with_control"] == 0:
            return line
        return (
            f"{line}; {first['lost']:.2f} of the tokens of both leave it (control, other codes "
            f"that occur with it: {first['control']:.2f})"
        )

    def preview(self) -> pd.DataFrame:
        """The table of `summary`."""
        return self.summary()


def causal_flow(
    model: Any,
    data: Data,
    *,
    to: Replacement = "nearest",
    n_controls: int = N_MATCHED,
    long_texts: LongTexts = "split",
    progress: bool = True,
) -> CausalFlow:
    """How ablating each code of one quantizer changes the codes of the next, in the model.

    Every text is run again once for each code that occurs in it, from the target of the one
    quantizer to the source of the next.

    Does the next code depend on this code, or does any ablation at its tokens take it away? The
    controls of a pair are other codes that share tokens with the same next code, about as many by
    ratio: a code that never meets it can hardly move it. What is compared is ``lost``, the fraction
    of the shared tokens that leave the next code, because it does not grow with how often a code
    occurs elsewhere. No other code may share nearly as many tokens with the main follower of a
    code, so its controls often have fewer.

    Args:
        model: A model with at least two fitted quantizers, each beginning where or after the one
            before it ends, such as 0-2, 2-4, 4-6.
        data: Texts or tokens, as for `Lens.fit`.
        to: What takes the place of an ablated code, as for `Ablate`.
        n_controls: Most other codes that each pair is compared with.
        long_texts: What to do with a text beyond the context.
        progress: Whether to show a progress bar.

    Returns:
        Both flows, with ``.frame()``, ``.summary()``, ``.to_networkx()`` and ``.plot()``.

    Raises:
        ConfigError: If there are fewer than two quantizers on the model, or ``n_controls`` is
            negative.
        LayerOrderError: If two of them overlap.
        NotFittedError: If one of them has not been fitted.
        EmptyCorpusError: If the data hold no real token.

    Example:
        >>> causal_flow(model, texts).frame()  # doctest: +SKIP
    """
    check_count("n_controls", n_controls, least=0)
    sums: list[_AblationSums] = []
    for first, second in pairwise(_causal_chain(model)):
        sums.append(_AblationSums(first, second, to))
    host = sums[0].first.host
    batches = token_batches(host, open_documents(data), long_texts=long_texts)
    for batch in tqdm(batches, desc="causal flow", unit="batch", disable=not progress):
        for step in sums:
            step.add(batch)
    return CausalFlow(tuple(step.result(n_controls) for step in sums))


def _causal_chain(model: Any) -> list[Attachment]:
    """The quantizers of a model, if what one changes can reach the next."""
    attachments = fitted_chain(model)
    if len(attachments) < 2:
        raise ConfigError(
            f"Flow goes from one quantizer to the next, but this model has {len(attachments)}. "
            f"Attach and fit at least two, such as model.add_clvq(0, 2) and model.add_clvq(2, 4)."
        )
    host = attachments[0].host
    for first, second in pairwise(attachments):
        if host.depth(first.target) > host.depth(second.source):
            raise LayerOrderError(
                f"The quantizers {first.name!r} and {second.name!r} overlap: the second reads "
                f"{second.source!r} before the first writes {first.target!r}. Remove one of them."
            )
    return attachments


class _AblationSums:
    """Sums over texts for one pair of quantizers.

    ``squares``, ``products`` and ``n_squares`` give the standard error of a ratio of sums over
    documents (delta method), in memory that does not grow with the corpus.

    Args:
        first: The quantizer whose codes are ablated.
        second: The quantizer whose codes are counted.
        to: What takes the place of an ablated code.
    """

    def __init__(self, first: Attachment, second: Attachment, to: Replacement) -> None:
        self.first, self.second = first, second
        self.to: Replacement = to
        a = first.quantizer.config.n_codes
        b = second.quantizer.config.n_codes
        self.n_tokens = torch.zeros(a).long()
        self.n_next = torch.zeros(b).long()
        self.joint = torch.zeros(a, b).long()
        self.lost = torch.zeros(a, b).long()
        # Doubles: the standard error is a small difference of large sums.
        self.change = torch.zeros(a, b).double()
        self.squares = torch.zeros(a, b).double()
        self.products = torch.zeros(a, b).double()
        self.n_squares = torch.zeros(a).double()
        self.n_texts = torch.zeros(a).long()

    def add(self, batch: TokenBatch) -> None:
        """Runs a batch of texts, as it is and with every code ablated that occurs in it."""
        # Runs end at the source of the second: what lies above it changes none of its codes.
        runs = Counterfactuals(self.first, batch, until=self.second.source)
        mask = runs.mask
        codes = runs.codes
        next_codes = self._next_codes(runs.outcome)
        self.n_tokens += torch.bincount(codes[mask], minlength=len(self.n_tokens))
        self.n_next += torch.bincount(next_codes[mask], minlength=len(self.n_next))
        pairs = (codes[mask], next_codes[mask])
        self.joint.index_put_(pairs, torch.ones_like(pairs[0]), accumulate=True)
        active = codes[mask].unique().tolist()
        outcomes = runs.outcomes(self._ablations(runs, active))
        for code, (rows, outcome) in zip(active, outcomes, strict=True):
            n_here = (codes == code).sum(1).double()
            self.n_squares[code] += n_here.square().sum()
            self.n_texts[code] += (n_here > 0).sum()
            # Rows that the ablation leaves alone are not run again: their change is 0.
            after = self._next_codes(outcome)
            for row, now in zip(rows.tolist(), after, strict=True):
                real = mask[row]
                before, now = next_codes[row][real], now[real]
                self._count_change(code, n_here[row], before, now)
                left = (codes[row][real] == code) & (before != now)
                self.lost[code] += torch.bincount(before[left], minlength=len(self.n_next))

    def _ablations(self, runs: Counterfactuals, codes: list[int]) -> Iterator[Draft]:
        # One by one as they are needed: all of them at once would not fit in memory.
        for code in codes:
            yield runs.edited(Ablate(code, self.to))

    def _next_codes(self, activations: Float[Tensor, "r pos d"]) -> Int[Tensor, "r pos"]:
        return self.second.quantizer.assign(activations).cpu()

    def _count_change(
        self,
        code: int,
        n_here: Float[Tensor, ""],
        before: Int[Tensor, " n"],
        after: Int[Tensor, " n"],
    ) -> None:
        """Adds what ablating a code changed in one text, in which it stood ``n_here`` times."""
        gained = torch.bincount(after, minlength=len(self.n_next))
        lost = torch.bincount(before, minlength=len(self.n_next))
        change = (gained - lost).double()
        self.change[code] += change
        self.squares[code] += change.square()
        self.products[code] += change * n_here

    def result(self, n_controls: int) -> CausalStep:
        """Effects, their errors, and what was lost beside its control."""
        require_real(self.n_tokens.sum())
        n = self.n_tokens.double().unsqueeze(1)
        effect = self.change / n
        # Sum over texts of (change - effect * n_here)^2, expanded so that one pass is enough.
        spread = self.squares - 2 * effect * self.products
        spread += effect.square() * self.n_squares.unsqueeze(1)
        error = spread.clamp_min(0).sqrt() / n  # rounding may leave a spread just below 0
        error[self.n_texts < 2] = torch.nan  # one text always agrees with itself
        lost = (self.lost.double() / self.joint).numpy()  # NaN where no token is in both
        return CausalStep(
            source=self.first.name,
            target=self.second.name,
            n_tokens=self.n_tokens.numpy(),
            n_next=self.n_next.numpy(),
            joint=self.joint.numpy(),
            effect=effect.numpy(),
            error=error.numpy(),
            lost=lost,
            control=_matched_mean(lost, self.joint.numpy(), n_controls),
        )


def _matched_mean(
    lost: Float[np.ndarray, "a b"], joint: Int[np.ndarray, "a b"], n_controls: int
) -> Float[np.ndarray, "a b"]:
    """For each pair, the mean over other codes that occur about as often with the second code."""
    control = np.full_like(lost, np.nan)
    for code, next_code in np.argwhere(joint).tolist():
        # Matched in shared tokens: the codes of equal share seldom stand at the next code's tokens.
        matched = nearest_in_share(joint[:, next_code], code, n_controls)
        if len(matched):
            control[code, next_code] = lost[matched, next_code].mean()
    return control


def _step_summary(step: CausalStep) -> dict[str, object]:
    """One row of `CausalFlow.summary`."""
    used = np.flatnonzero(step.n_tokens)
    follower = step.joint[used].argmax(1)
    n_tokens = step.n_tokens[used]
    lost, control = step.lost[used, follower], step.control[used, follower]
    has_control = np.isfinite(control)
    return {
        "source": step.source,
        "target": step.target,
        "n_codes": len(used),
        "observed": _mean(step.joint[used, follower] / n_tokens, n_tokens),
        "effect": _mean(step.effect[used, follower], n_tokens),
        "n_with_control": int(has_control.sum()),
        "lost": _mean(lost[has_control], n_tokens[has_control]),
        "control": _mean(control[has_control], n_tokens[has_control]),
    }


def _mean(values: Float[np.ndarray, " n"], weights: Int[np.ndarray, " n"]) -> float:
    """A weighted mean; NaN of nothing."""
    return float(np.average(values, weights=weights)) if len(values) else float("nan")


def _step_frame(step: CausalStep) -> pd.DataFrame:
    """The rows of `CausalFlow.frame` for one step."""
    # Pairs that never meet and do not move each other would fill the table with zeros.
    chosen = (step.joint > 0) | (np.nan_to_num(step.effect) != 0)
    codes, next_codes = np.nonzero(chosen)
    effect = step.effect[chosen]
    error = step.error[chosen]
    return pd.DataFrame(
        {
            "source": step.source,
            "code": codes,
            "target": step.target,
            "next_code": next_codes,
            "n_tokens": step.n_tokens[codes],
            "n_both": step.joint[chosen],
            "observed": step.joint[chosen] / step.n_tokens[codes],
            "expected": step.n_next[next_codes] / step.n_next.sum(),
            "effect": effect,
            "low": effect - _NORMAL_95 * error,
            "high": effect + _NORMAL_95 * error,
            "lost": step.lost[chosen],
            "control": step.control[chosen],
        }
    )
