"""Attribution: what gradients say about codes, beside what edits of the model show."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float, Int
from scipy.stats import spearmanr
from torch import Tensor

from clvq_lens.arguments import check_count, check_flags, check_seed
from clvq_lens.data.documents import Data
from clvq_lens.errors import ConfigError
from clvq_lens.host.attachment import Attached, ready
from clvq_lens.host.modes import require_gradients
from clvq_lens.interventions.code_gradients import CodeGradients
from clvq_lens.interventions.counterfactuals import Counterfactuals, run_on
from clvq_lens.interventions.edits import Ablate
from clvq_lens.interventions.logit_metrics import LogitsFunction, Metric, bind, name_of
from clvq_lens.interventions.strings import strings_of_texts
from clvq_lens.plots.interventions import plot_attribution
from clvq_lens.quantizer.draft import Draft
from clvq_lens.readouts.integrated_gradients import N_STEPS
from clvq_lens.showing import Shown

_SMALL = 1e-12  # keeps the completeness error finite where the mean code changes nothing
_REPLACEMENT = ["text", "position", "replaced_by"]  # columns that name a replacement
_PREDICTIONS = ("first_order", "path", "exact_decoder")  # columns beside the true effects


@dataclass(frozen=True, repr=False)
class Attribution(Shown):
    """First-order effects and integrated gradients of codes, beside the effects of true edits.

    Attributes:
        metric: Name of the metric.
        value: The metric of the run itself.
        effects: First-order effect of replacing the code at a position by every other code,
            [batch, pos, n_codes]; NaN where there is no real token.
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

    def headline(self) -> str:
        """How many tokens, and how well gradients rank the true effects."""
        n = len(self.positions)
        return (
            f"{n:,} {'token' if n == 1 else 'tokens'}, {self.metric} {self.value:.4g}: rank "
            f"correlation with true effects {self.rank_correlation:.2f} first-order, "
            f"{self.integrated_rank_correlation:.2f} integrated"
        )

    def preview(self) -> pd.DataFrame:
        """Each real token."""
        return self.frame()

    @property
    def completeness_error(self) -> float:
        """How far integrated gradients are from adding up, as a fraction of the difference."""
        total = float(np.nansum(self.integrated))
        return abs(total - self.difference) / max(abs(self.difference), _SMALL)

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
        quarters = {
            "all": self.pairs,
            "near": self.pairs[self.pairs["distance"] <= near],
            "far": self.pairs[self.pairs["distance"] >= far],
        }
        table = pd.DataFrame({"prediction": _PREDICTIONS})
        for name, pairs in quarters.items():
            table[name] = [_spearman(pairs, predicted) for predicted in _PREDICTIONS]
        return table

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
        # From the left: a merge keeps the order of its left table, the largest effects first.
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
    n_steps: int = N_STEPS,
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
        n_steps: Number of points on the path, by Gauss-Legendre quadrature.
        n_true: Number of replacements drawn at random, to compare predictions with.
        exact_decoder: Whether ``effects`` are first-order in the model above the target alone, and
            every replacement is decoded for itself: n_codes decodings per token, but still one
            pass of the model. Over the distances between codes a transformer decoder is far from
            linear, so this often predicts much better.
        seed: Random seed for the drawn replacements.
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
    attachment = ready(lens)
    _check_options(attachment.quantizer.config.n_codes, n_true, exact_decoder, seed)
    runs = run_on(attachment, data, metric)
    function = bind(metric, runs.reference)
    gradients = CodeGradients(runs, function, name_of(metric))
    path = gradients.integrated(n_steps, progress=progress)
    effects = _on_real(gradients.effects_of(gradients.of_run()), runs)
    path_effects = _on_real(gradients.effects_of(path.average), runs)
    integrated = _on_real(path.integrated, runs)
    pairs = _draw_pairs(runs, n_true, seed)
    _predict(pairs, effects, path_effects, gradients)
    pairs["true"] = _true_effects(runs, function, pairs, progress)
    if exact_decoder:  # after the pairs, which have first-order effects and exact ones beside them
        effects = _with_exact_decoder(gradients, effects, progress)
    return Attribution(
        metric=name_of(metric),
        value=float(function(runs.outcome)),
        effects=effects,
        path_effects=path_effects,
        integrated=integrated,
        difference=path.difference,
        pairs=pairs,
        positions=_positions(runs, function, integrated, progress),
    )


def _on_real(values: Tensor, runs: Counterfactuals) -> np.ndarray:
    """Values of real tokens, NaN elsewhere."""
    mask = runs.mask.view(*runs.mask.shape, *[1] * (values.ndim - 2))
    return values.detach().cpu().masked_fill(~mask, torch.nan).double().numpy()


def _check_options(n_codes: int, n_true: int, exact_decoder: bool, seed: int) -> None:
    check_count("n_true", n_true, least=0)
    check_seed(seed)
    check_flags(exact_decoder=exact_decoder)
    if n_codes < 2:
        raise ConfigError("The codebook has one code, which no other can replace. Fit more codes.")


def _draw_pairs(runs: Counterfactuals, n: int, seed: int) -> pd.DataFrame:
    """Replacements of one code by another, drawn at random."""
    random = np.random.default_rng(seed)
    tokens = runs.mask.nonzero().numpy()
    rows, positions = tokens[random.integers(len(tokens), size=n)].T
    codes = runs.draft.codes.cpu().numpy()[rows, positions]
    n_codes = runs.quantizer.config.n_codes
    # A step of 1 to n_codes - 1 around the codebook never leads back to the code itself.
    others = (codes + random.integers(1, n_codes, size=n)) % n_codes
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


def _predict(
    pairs: pd.DataFrame,
    first_order: Float[np.ndarray, "b pos k"],
    path_effects: Float[np.ndarray, "b pos k"],
    gradients: CodeGradients,
) -> None:
    """Writes what gradients predict beside the drawn replacements."""
    replacements = pairs[_REPLACEMENT].to_numpy()
    index = tuple(replacements.T)
    pairs["first_order"] = first_order[index]
    pairs["path"] = path_effects[index]
    pairs["exact_decoder"] = gradients.with_exact_decoder(replacements, progress=False)


def _true_effects(
    runs: Counterfactuals, metric: LogitsFunction, pairs: pd.DataFrame, progress: bool
) -> Float[np.ndarray, " n"]:
    """The effect of each drawn replacement in the model itself."""
    replacements = pairs[_REPLACEMENT].to_numpy().tolist()
    drafts = (_replaced(runs, *replacement) for replacement in replacements)
    values = runs.measure(
        drafts, metric, n=len(replacements), desc="true effects", progress=progress
    )
    return np.array(values, dtype=float) - float(metric(runs.outcome))


def _replaced(runs: Counterfactuals, row: int, position: int, code: int) -> Draft:
    where = torch.zeros_like(runs.draft.codes, dtype=torch.bool)
    where[row, position] = True
    codes = torch.full_like(runs.draft.codes, code)
    return runs.draft.with_codes(codes, where, runs.quantizer.codebook)


def _with_exact_decoder(
    gradients: CodeGradients, first_order: Float[np.ndarray, "b pos k"], progress: bool
) -> Float[np.ndarray, "b pos k"]:
    """The effects of every replacement, each of them decoded for itself."""
    replacements = _every_replacement(gradients.runs)
    effects = first_order.copy()  # NaN where there is no real token
    effects[tuple(replacements.T)] = gradients.with_exact_decoder(replacements, progress=progress)
    return effects


def _every_replacement(runs: Counterfactuals) -> Int[np.ndarray, "n 3"]:
    """Text, position and new code, for every real token and every code."""
    tokens = runs.mask.nonzero().numpy()
    n_codes = runs.quantizer.config.n_codes
    codes = np.tile(np.arange(n_codes), len(tokens))
    return np.column_stack([np.repeat(tokens, n_codes, axis=0), codes])


def _positions(
    runs: Counterfactuals,
    metric: LogitsFunction,
    integrated: Float[np.ndarray, "b pos"],
    progress: bool,
) -> pd.DataFrame:
    """Each real token with its integrated gradients and the effect of losing its code."""
    tokens = runs.mask.nonzero()
    drafts = (_averaged(runs, row, position) for row, position in tokens.tolist())
    values = runs.measure(drafts, metric, n=len(tokens), desc="mean ablation", progress=progress)
    strings = strings_of_texts(runs.batch, runs.host)
    rows, positions = tokens.T.numpy()
    return pd.DataFrame(
        {
            "text": rows,
            "position": positions,
            "token": [strings[row][position] for row, position in tokens.tolist()],
            "code": runs.codes.numpy()[rows, positions],
            "integrated": integrated[rows, positions],
            # The run less the ablation, as integrated gradients have it.
            "true": float(metric(runs.outcome)) - np.array(values),
        }
    )


def _averaged(runs: Counterfactuals, row: int, position: int) -> Draft:
    where = torch.zeros_like(runs.mask)
    where[row, position] = True
    return runs.edited(Ablate(int(runs.draft.codes[row, position]), "mean", at=where))


def _spearman(frame: pd.DataFrame, predicted: str) -> float:
    """Spearman correlation with the true effects; NaN where one of both does not vary."""
    both = frame[[predicted, "true"]].to_numpy(dtype=float)
    # scipy would warn of these.
    if len(both) < 2 or (both == both[0]).all(axis=0).any():
        return float("nan")
    return float(spearmanr(both).statistic)  # pyright: ignore[reportAttributeAccessIssue]
