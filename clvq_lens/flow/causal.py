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
from clvq_lens.stats.matched import nearest_in_share

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
        control: Mean effect of the other codes of the first that are nearest in share, [a, b].
    """

    source: str
    target: str
    n_tokens: Int[np.ndarray, " a"]
    n_next: Int[np.ndarray, " b"]
    joint: Int[np.ndarray, "a b"]
    effect: Float[np.ndarray, "a b"]
    error: Float[np.ndarray, "a b"]
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
        ablated token of the first, with a 95 % interval over documents; ``control`` is the same
        for codes of about the same share.
        """
        frames = [_step_frame(step) for step in self.steps]
        frame = pd.concat(frames, ignore_index=True)
        # Stable, so that equal effects stay in order of steps and codes.
        order = np.argsort(-np.abs(frame["effect"].to_numpy()), kind="stable")
        return frame.iloc[order].reset_index(drop=True)

    def summary(self) -> pd.DataFrame:
        """For each step, what ablating a code does to the code that most often follows it.

        Means over the codes of the first quantizer, weighted by their tokens.
        """
        return pd.DataFrame([_step_summary(step) for step in self.steps])

    def to_networkx(self) -> nx.DiGraph:
        """A graph of codes, ``(quantizer, code)``, with every row of `frame` as an edge.

        Nodes have ``n_tokens``; edges have ``n_both``, ``observed``, ``expected``, ``effect``,
        ``low``, ``high`` and ``control``.
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
        return (
            f"{names}, {int(self.steps[0].n_tokens.sum()):,} tokens; ablating a code of "
            f"{first['source']} changes its main follower by {first['effect']:+.2f} tokens per "
            f"token (other codes {first['control']:+.2f})"
        )

    def preview(self) -> pd.DataFrame:
        """The table of `summary`."""
        return self.summary()


def causal_flow(
    model: Any,
    data: Data,
    *,
    to: Replacement = "nearest",
    n_controls: int = 5,
    long_texts: LongTexts = "split",
    progress: bool = True,
) -> CausalFlow:
    """How ablating each code of one quantizer changes the codes of the next, in the model.

    Every text is run again once for each code that occurs in it, from the target of the one
    quantizer to the source of the next.

    Args:
        model: A model with at least two fitted quantizers, each beginning where or after the one
            before it ends, such as 0-2, 2-4, 4-6.
        data: Texts or tokens, as for `Lens.fit`.
        to: What takes the place of an ablated code, as for `Ablate`.
        n_controls: Codes nearest in share that each one is compared with.
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
                self._count_change(code, n_here[row], next_codes[row][real], now[real])

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
        """Effects, their errors, and those of codes matched in share."""
        require_real(self.n_tokens.sum())
        n = self.n_tokens.double().unsqueeze(1)
        effect = self.change / n
        # Sum over texts of (change - effect * n_here)^2, expanded so that one pass is enough.
        spread = self.squares - 2 * effect * self.products
        spread += effect.square() * self.n_squares.unsqueeze(1)
        error = spread.clamp_min(0).sqrt() / n  # rounding may leave a spread just below 0
        error[self.n_texts < 2] = torch.nan  # one text always agrees with itself
        return CausalStep(
            source=self.first.name,
            target=self.second.name,
            n_tokens=self.n_tokens.numpy(),
            n_next=self.n_next.numpy(),
            joint=self.joint.numpy(),
            effect=effect.numpy(),
            error=error.numpy(),
            control=_matched_mean(effect.numpy(), self.n_tokens.numpy(), n_controls),
        )


def _matched_mean(
    effect: Float[np.ndarray, "a b"], n_tokens: Int[np.ndarray, " a"], n_controls: int
) -> Float[np.ndarray, "a b"]:
    """For each code, the mean effect of the other used codes that are nearest in share."""
    control = np.full_like(effect, np.nan)
    for code in np.flatnonzero(n_tokens).tolist():
        # Matched in share, because a common code moves more tokens than a rare one.
        nearest = nearest_in_share(n_tokens, code, n_controls)
        if len(nearest):
            control[code] = effect[nearest].mean(0)
    return control


def _step_summary(step: CausalStep) -> dict[str, object]:
    """One row of `CausalFlow.summary`."""
    used = step.n_tokens > 0
    weights = step.n_tokens[used] / step.n_tokens.sum()
    follower = step.joint[used].argmax(1)
    pairs = np.arange(used.sum()), follower
    observed = step.joint[used][pairs] / step.n_tokens[used]
    return {
        "source": step.source,
        "target": step.target,
        "n_codes": int(used.sum()),
        "observed": float(weights @ observed),
        "effect": float(weights @ step.effect[used][pairs]),
        "control": float(weights @ step.control[used][pairs]),
    }


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
            "control": step.control[chosen],
        }
    )
