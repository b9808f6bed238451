"""Attribution: what gradients say about codes, beside what edits of the model show."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from scipy.stats import spearmanr
from torch import Tensor
from tqdm.auto import tqdm

from clvq_lens.arguments import check_count, check_flags, check_seed
from clvq_lens.errors import ConfigError, MetricError
from clvq_lens.host.attach import Attached
from clvq_lens.host.modes import require_gradients
from clvq_lens.interventions.edits import Ablate
from clvq_lens.interventions.metrics import LogitsFunction, Metric, bind, columns_of, name_of
from clvq_lens.interventions.path import average_gradient, gradient_of
from clvq_lens.interventions.runs import Counterfactuals, fitted, require_real
from clvq_lens.plots.interventions import plot_attribution
from clvq_lens.quantizer.draft import Draft
from clvq_lens.training.documents import Data
from clvq_lens.training.tokens import one_batch


@dataclass(frozen=True)
class Attribution:
    """First-order effects and integrated gradients of codes, beside the effects of true edits.

    Attributes:
        metric: Its name.
        value: The metric of the run itself.
        effects: First-order effect of replacing the code at a position by every other code,
            [batch, pos, n_codes]; NaN where no real token is.
        path_effects: The same with the gradient averaged along the path of integrated gradients.
        integrated: Integrated gradients along the straight path from the mean code, [batch, pos].
        difference: Metric of the run less that with the mean code everywhere, which integrated
            gradients should add up to.
        pairs: Replacements drawn at random: ``distance`` between the code vectors, the predicted
            effects ``first_order``, ``path`` and ``exact_decoder`` (first-order in the model, but
            not in the decoder), and the ``true`` one.
        positions: One row for each real token, with ``integrated`` and ``true``: the metric less
            that with this one code replaced by the mean code.
    """

    metric: str
    value: float
    effects: Float[np.ndarray, "b pos k"]
    path_effects: Float[np.ndarray, "b pos k"]
    integrated: Float[np.ndarray, "b pos"]
    difference: float
    pairs: pd.DataFrame
    positions: pd.DataFrame

    @property
    def completeness_error(self) -> float:
        """How far integrated gradients are from adding up, as a fraction of the difference."""
        total = float(np.nansum(self.integrated))
        return abs(total - self.difference) / max(abs(self.difference), 1e-12)

    @property
    def rank_correlation(self) -> float:
        """Spearman correlation of first-order and true effects over the drawn replacements."""
        return _spearman(self.pairs, "first_order")

    @property
    def integrated_rank_correlation(self) -> float:
        """Spearman correlation of integrated gradients and true effects over positions."""
        return _spearman(self.positions, "integrated")

    def correlations(self) -> pd.DataFrame:
        """Spearman correlation of each prediction with the true effects, and where it fails.

        ``near`` and ``far`` are the quarters of replacements by the most and by the least similar
        code vectors, so by the nearest and the farthest. If ``exact_decoder`` does well where
        ``first_order`` does not, it is the decoder that is not linear over such distances; if
        neither does, it is the model.
        """
        near, far = self.pairs["distance"].quantile([0.25, 0.75])
        parts = {
            "all": self.pairs,
            "near": self.pairs[self.pairs["distance"] <= near],
            "far": self.pairs[self.pairs["distance"] >= far],
        }
        predictions = ("first_order", "path", "exact_decoder")
        table = {
            name: [_spearman(pairs, predicted) for predicted in predictions]
            for name, pairs in parts.items()
        }
        return pd.DataFrame({"prediction": predictions, **table})

    def frame(self) -> pd.DataFrame:
        """One row for each real token: its code, integrated gradients and true effect."""
        return self.positions

    def top(self, n: int = 20) -> pd.DataFrame:
        """The replacements with the largest first-order effects, of either sign."""
        effects = np.nan_to_num(self.effects)
        order = np.argsort(-np.abs(effects), axis=None, kind="stable")[:n]
        rows, positions, codes = np.unravel_index(order, effects.shape)
        frame = pd.DataFrame({"text": rows, "position": positions, "replaced_by": codes})
        known = self.positions[["text", "position", "token", "code"]]
        frame = frame.merge(known, on=["text", "position"], how="left")
        return frame.assign(effect=effects[rows, positions, codes])

    def plot(self) -> go.Figure:
        """First-order effects and integrated gradients, each against the true effects."""
        correlations = (
            self.rank_correlation,
            _spearman(self.pairs, "exact_decoder"),
            self.integrated_rank_correlation,
        )
        return plot_attribution(
            self.pairs,
            self.positions,
            metric=self.metric,
            correlations=correlations,
            completeness_error=self.completeness_error,
        )


def attribution(
    lens: Attached,
    data: Data,
    metric: Metric | LogitsFunction,
    *,
    n_steps: int = 32,
    n_true: int = 256,
    exact_decoder: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> Attribution:
    """What gradients say about codes inside the running model, beside true edits.

    One forward and one backward pass give the first-order effect of every replacement of one code
    by another: g . (e_k - e_c), with g the gradient of the metric with respect to the code vector
    (attribution patching; Syed et al. 2023, arXiv 2310.10348). Integrated gradients (arXiv
    1703.01365) follow the straight path from the mean code vector, weighted by usage, to the codes
    of the run. For decoders that work token by token both are taken with respect to their output.

    Args:
        lens: A fitted lens.
        data: A text, texts, or tokens [pos] or [batch, pos].
        metric: `logit_diff`, `probability`, `loss`, or any differentiable function of logits
            [batch, pos, d_vocab] that returns one number.
        n_steps: Points of the path, by Gauss-Legendre quadrature.
        exact_decoder: Whether ``effects`` are first-order in the model above the target alone, and
            every replacement is decoded for itself: n_codes decodings per token, but still one
            pass of the model. Over the distances between codes a transformer decoder is far from
            linear, so this often predicts much better.
        n_true: Replacements drawn at random, to compare predictions with.
        seed: Of the draw.
        progress: Whether to show progress bars.

    Returns:
        Both, beside the true effects, with ``.frame()``, ``.top()`` and ``.plot()``.

    Raises:
        NotFittedError: If the quantizer has not been fitted.
        MetricError: If the metric has no gradient, or does not return one number.
        ConfigError: If the path has no point, or the codebook a single code.
        EmptyCorpusError: If the texts hold no real token.
    """
    require_gradients("Attribution")
    attachment = fitted(lens)
    check_count("n_true", n_true, least=0)
    check_seed(seed)
    check_flags(exact_decoder=exact_decoder)
    _check_codes(attachment.quantizer.config.n_codes)
    batch = one_batch(attachment.host, data)
    require_real(batch)
    runs = Counterfactuals(attachment, batch, columns=columns_of(metric, [batch]))
    runs.require_tokens()
    function = bind(metric, runs.reference)
    gradients = _Gradients(runs, function, name_of(metric))
    path = gradients.integrated(n_steps, progress=progress)
    first_order = _on_real(gradients.effects_of(gradients.at_run()), runs)
    path_effects = _on_real(gradients.effects_of(path.gradient), runs)
    pairs = _draw_pairs(runs, n_true, seed)
    index = tuple(pairs[column].to_numpy() for column in ("text", "position", "replaced_by"))
    pairs["first_order"], pairs["path"] = first_order[index], path_effects[index]
    drawn = list(zip(*(column.tolist() for column in index), strict=True))
    pairs["exact_decoder"] = gradients.with_exact_decoder(drawn, progress=False)
    drafts = (_replaced(runs, *replacement) for replacement in drawn)
    unedited = float(function(runs.outcome))
    values = runs.measure(drafts, function, n=n_true, desc="true effects", progress=progress)
    pairs["true"] = np.array(values, dtype=float) - unedited
    integrated = _on_real(path.integrated, runs)
    if exact_decoder:
        every = _every_replacement(runs)
        first_order[tuple(np.array(every).T)] = gradients.with_exact_decoder(
            every, progress=progress
        )
    return Attribution(
        metric=name_of(metric),
        value=unedited,
        effects=first_order,
        path_effects=path_effects,
        integrated=integrated,
        difference=path.difference,
        pairs=pairs,
        positions=_positions(runs, function, integrated, progress),
    )


@dataclass(frozen=True)
class _Path:
    """What integrated gradients give: of each position, in sum, and the averaged gradient."""

    integrated: Float[Tensor, "b pos"]
    difference: float
    gradient: Float[Tensor, "b pos d"]


class _Gradients:
    """Gradients of a metric with respect to what codes stand for, in the running model.

    That is the code vector for a decoder that reads sequences, and the decoded code for one that
    works token by token.

    Args:
        runs: The run.
        metric: A function of logits to one number.
        name: Of the metric, for the error.
    """

    def __init__(self, runs: Counterfactuals, metric: LogitsFunction, name: str) -> None:
        self.runs, self.metric, self.name = runs, metric, name
        quantizer, draft = runs.quantizer, replace(runs.draft, steering=None)
        self.by_token = not quantizer.config.reads_sequences
        self.everyone = torch.arange(len(draft.codes), device=draft.codes.device)
        mask = runs.mask.to(draft.codes.device)
        averaged = draft.with_mean(quantizer.shares @ quantizer.codebook.vectors, mask)
        # What each code stands for, what the run holds, and where the path starts.
        if self.by_token:
            with torch.no_grad():
                vectors = quantizer.codebook.vectors.unsqueeze(0)
                self.rows = quantizer.decode(vectors, encoded=vectors).squeeze(0)
                self.held, self.start = self._recon(draft), self._recon(averaged)
        else:
            self.rows = quantizer.codebook.vectors
            self.held, self.start = draft.vectors, averaged.vectors

    def at_run(self) -> Float[Tensor, "b pos d"]:
        """The gradient at the codes of the run: one forward and one backward pass."""
        return self._gradient(self._metric, self.held)

    def effects_of(self, gradient: Float[Tensor, "b pos d"]) -> Float[Tensor, "b pos k"]:
        """g . (e_k - e_c) at every position, for every code."""
        return gradient @ self.rows.T - (gradient * self.held).sum(-1, keepdim=True)

    def integrated(self, n_steps: int, *, progress: bool) -> _Path:
        """Integrated gradients of each position, by Gauss-Legendre quadrature."""
        average = average_gradient(
            lambda at: self._gradient(self._metric, at),
            self.start,
            self.held,
            n_steps=n_steps,
            progress=progress,
        )
        with torch.no_grad():
            difference = self._metric(self.held) - self._metric(self.start)
        return _Path((average * (self.held - self.start)).sum(-1), float(difference), average)

    @torch.no_grad()
    def with_exact_decoder(
        self, replacements: Sequence[tuple[int, int, int]], *, progress: bool
    ) -> np.ndarray:
        """Effects of (text, position, code), first-order in the model above the target alone."""
        recon = self._recon(self.runs.draft)
        gradient = self._gradient(self._metric_of_recon, recon)
        size = max(1, self.runs.host.positions_per_pass // recon.shape[1])
        effects = []
        chunks = range(0, len(replacements), size)
        for start in tqdm(chunks, desc="decode", unit="batch", disable=not progress):
            texts, positions, codes = map(
                torch.tensor, zip(*replacements[start : start + size], strict=True)
            )
            draft = self.runs.draft.take(texts)
            where = torch.zeros_like(draft.codes, dtype=torch.bool)
            where[torch.arange(len(texts)), positions] = True
            codes = codes.to(draft.codes).unsqueeze(1).expand_as(draft.codes)
            draft = draft.with_codes(codes, where, self.runs.quantizer.codebook)
            recon_of_part = self.runs.reconstruction.from_codes(self.runs.recorded, draft, texts)
            moved = recon_of_part - recon[texts]
            effects.append((gradient[texts] * moved).sum((1, 2)).cpu())
        return torch.cat(effects).double().numpy() if effects else np.zeros(0)

    def _recon(self, draft: Draft) -> Float[Tensor, "b pos d_target"]:
        return self.runs.reconstruction.from_codes(self.runs.recorded, draft, self.everyone)

    def _gradient(self, metric: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
        with torch.enable_grad():
            at = at.detach().clone().requires_grad_()
            value = metric(at)
            if not value.requires_grad:
                raise MetricError(
                    f"The metric {self.name!r} has no gradient. Return a tensor computed from the "
                    f"logits by differentiable operations, without .item(), float() or argmax."
                )
            return gradient_of(value, at)

    def _metric(self, held: Tensor) -> Tensor:
        draft = self.runs.draft
        if not self.by_token:
            return self._metric_of_recon(self._recon(replace(draft, vectors=held)))
        return self._metric_of_recon(held if draft.steering is None else held + draft.steering)

    def _metric_of_recon(self, recon: Tensor) -> Tensor:
        return self.metric(self.runs.outcome_from(recon, self.everyone, self.runs.draft.named))


def _on_real(values: Tensor, runs: Counterfactuals) -> np.ndarray:
    """Values of real tokens, NaN elsewhere."""
    mask = runs.mask.view(*runs.mask.shape, *[1] * (values.ndim - 2))
    return values.detach().cpu().masked_fill(~mask, torch.nan).double().numpy()


def _check_codes(n_codes: int) -> None:
    if n_codes < 2:
        raise ConfigError("The codebook has one code, which no other can replace. Fit more codes.")


def _draw_pairs(runs: Counterfactuals, n: int, seed: int) -> pd.DataFrame:
    """Replacements of one code by another, drawn at random."""
    random = np.random.default_rng(seed)
    rows, positions = (index.numpy() for index in runs.mask.nonzero(as_tuple=True))
    chosen = random.integers(len(rows), size=n)
    rows, positions = rows[chosen], positions[chosen]
    codes = runs.draft.codes.cpu().numpy()[rows, positions]
    n_codes = runs.quantizer.config.n_codes
    others = (codes + random.integers(1, n_codes, size=n)) % n_codes  # any but its own
    vectors = runs.quantizer.codebook.vectors.cpu().numpy()
    distance = np.linalg.norm(vectors[codes] - vectors[others], axis=1)
    return pd.DataFrame(
        {
            "text": rows,
            "position": positions,
            "code": codes,
            "replaced_by": others,
            "distance": distance,
        }
    )


def _every_replacement(runs: Counterfactuals) -> list[tuple[int, int, int]]:
    codes = range(runs.quantizer.config.n_codes)
    return [(*token, code) for token in runs.mask.nonzero().tolist() for code in codes]


def _replaced(runs: Counterfactuals, row: int, position: int, code: int) -> Draft:
    where = torch.zeros_like(runs.draft.codes, dtype=torch.bool)
    where[row, position] = True
    codes = torch.full_like(runs.draft.codes, code)
    return runs.draft.with_codes(codes, where, runs.quantizer.codebook)


def _positions(
    runs: Counterfactuals, metric: LogitsFunction, integrated: np.ndarray, progress: bool
) -> pd.DataFrame:
    """Each real token with its integrated gradients and the effect of losing its code."""
    mask, codes = runs.mask, runs.draft.codes.cpu()
    rows, positions = (index.tolist() for index in mask.nonzero(as_tuple=True))
    pairs = list(zip(rows, positions, strict=True))
    drafts = (_averaged(runs, row, position) for row, position in pairs)
    values = runs.measure(drafts, metric, n=len(pairs), desc="mean ablation", progress=progress)
    unedited = float(metric(runs.outcome))
    batch = runs.batch
    texts = zip(batch.tokens, batch.attended, strict=True)
    strings = [runs.host.vocabulary.displayed(tokens[attended]) for tokens, attended in texts]
    return pd.DataFrame(
        {
            "text": rows,
            "position": positions,
            "token": [strings[row][position] for row, position in pairs],
            "code": [int(codes[row, position]) for row, position in pairs],
            "integrated": [integrated[row, position] for row, position in pairs],
            "true": unedited - np.array(values),
        }
    )


def _averaged(runs: Counterfactuals, row: int, position: int) -> Draft:
    where = torch.zeros_like(runs.mask)
    where[row, position] = True
    return runs.edited(Ablate(int(runs.draft.codes[row, position]), "mean", at=where))


def _spearman(frame: pd.DataFrame, predicted: str) -> float:
    both = frame[[predicted, "true"]].to_numpy(dtype=float)
    if len(both) < 2 or (both == both[0]).all(axis=0).any():
        return float("nan")
    return float(spearmanr(both).statistic)  # pyright: ignore[reportAttributeAccessIssue]
