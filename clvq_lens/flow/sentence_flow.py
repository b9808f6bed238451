"""The flow of one text: which concept each token is in at every quantizer, and its effect."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float, Int
from torch import Tensor

from clvq_lens.arguments import CodeNames
from clvq_lens.concepts.encoding import batch_codes, colors_of
from clvq_lens.data.tokens import one_batch, require_real
from clvq_lens.errors import DataError
from clvq_lens.flow.chain import require_chain
from clvq_lens.flow.names import names_by_stage
from clvq_lens.host.attachment import Attachment
from clvq_lens.interventions.logit_metrics import LogitsFunction, Metric, name_of
from clvq_lens.interventions.strings import strings_at_positions
from clvq_lens.interventions.sweep import AblationSweep, ablation_sweep
from clvq_lens.plots.running_text import WIDTH
from clvq_lens.plots.sentence_grid import plot_sentence
from clvq_lens.showing import Shown


@dataclass(frozen=True, repr=False)
class SentenceFlow(Shown):
    """The codes of one text, at every quantizer of a model.

    Attributes:
        quantizers: Their names, in order of depth.
        tokens: What stands at each position.
        codes: The code of each token, -1 for special tokens.
        metric: The name of the metric; None: no effects were measured.
        effects: What ablating that code at that position changes the metric by; NaN for special
            tokens.
        controls: What the same ablation of other codes at the nearest positions changes it by on
            average, as in `ablation_sweep`.
        colors: Colors of the codes of each quantizer, the same as in every other figure.
    """

    quantizers: tuple[str, ...]
    tokens: tuple[str, ...]
    codes: Int[np.ndarray, "quantizer pos"]
    metric: str | None = None
    effects: Float[np.ndarray, "quantizer pos"] | None = None
    controls: Float[np.ndarray, "quantizer pos"] | None = None
    colors: tuple[tuple[str, ...], ...] = ()

    def frame(self, names: Mapping[str, CodeNames] | CodeNames | None = None) -> pd.DataFrame:
        """One row for each quantizer and token; the code is -1 for special tokens.

        Args:
            names: Names of codes, as for `plot`.
        """
        n_quantizers, n_tokens = self.codes.shape
        frame = pd.DataFrame(
            {
                "quantizer": np.repeat(np.array(self.quantizers, dtype=object), n_tokens),
                "position": np.tile(np.arange(n_tokens), n_quantizers),
                "token": self.tokens * n_quantizers,
                "code": self.codes.ravel(),
            }
        )
        for column, values in (("effect", self.effects), ("control", self.controls)):
            if values is not None:
                frame[column] = values.ravel()
        if names is not None:
            by_stage = names_by_stage(names, self.quantizers)
            shown: list[str] = []
            for quantizer, code in zip(frame["quantizer"], frame["code"], strict=True):
                shown.append(by_stage.get(quantizer, {}).get(code, ""))
            frame["name"] = shown
        return frame

    def plot(
        self,
        names: Mapping[str, CodeNames] | CodeNames | None = None,
        *,
        width: int = WIDTH,
    ) -> go.Figure:
        """The text, and below each token its concept at every quantizer, with effects as bars.

        Args:
            names: Names of codes, for each quantizer by its name: ``{"0-1": {17: "animals"}}``.
                With a single quantizer, also its names alone.
            width: Characters in a line: about 40 for a narrow page.
        """
        colors = dict(zip(self.quantizers, self.colors, strict=False))  # there may be no colors
        metric = self.metric or ""
        return plot_sentence(self.frame(names or {}), metric=metric, colors=colors, width=width)

    def headline(self) -> str:
        """How many tokens at which quantizers, and the largest effect if effects were measured."""
        size = f"{len(self.tokens)} tokens at {', '.join(self.quantizers)}"
        if self.effects is None or not np.isfinite(self.effects).any():
            return size
        largest = np.nanargmax(np.abs(self.effects))
        quantizer, position = np.unravel_index(largest, self.effects.shape)
        return (
            f"{size}; largest effect on {self.metric}: {self.effects[quantizer, position]:+.3g} by "
            f"code {self.codes[quantizer, position]} of {self.quantizers[quantizer]} at position "
            f"{position}"
        )

    def preview(self) -> pd.DataFrame:
        """The table of `frame`."""
        return self.frame()


def sentence_flow(
    model: Any,
    text: str | Tensor,
    *,
    metric: Metric | LogitsFunction | None = None,
    progress: bool = True,
) -> SentenceFlow:
    """The concept of each token of one text, from quantizer to quantizer.

    Args:
        model: A model with one fitted quantizer or several.
        text: One text, or its tokens.
        metric: If given, every code is ablated at every position, one at a time, in the model:
            `logit_diff`, `probability`, `loss`, `kl`, or any function of logits that returns one
            number. Beside each effect stands the mean effect of ablating five other codes in the
            same way at the nearest positions.
        progress: Whether to show progress bars; without a metric there is nothing to wait for.

    Returns:
        Codes and effects, with ``.frame()`` and ``.plot()``.

    Raises:
        ConfigError: If no quantizer is on the model.
        NotFittedError: If one of them has not been fitted.
        DataError: If there is not exactly one text.
        EmptyCorpusError: If it holds no real token.
        MetricError: If the metric does not return one number.

    Example:
        >>> cl.sentence_flow(model, "The film was", metric=cl.kl()).plot()  # doctest: +SKIP
    """
    chain = require_chain(model)
    host = chain[0].host
    batch = one_batch(host, text)
    if len(batch.tokens) != 1:
        raise DataError(
            f"There are {len(batch.tokens)} texts, and the flow is that of one. Pass texts[0]."
        )
    require_real(batch.mask.sum())
    names: list[str] = []
    codes: list[np.ndarray] = []
    colors: list[tuple[str, ...]] = []
    for attachment in chain:
        of_batch, _ = batch_codes(attachment, batch)  # outliers are shown with their code
        codes.append(of_batch[0].masked_fill(~batch.mask[0], -1).numpy())
        colors.append(colors_of(attachment.quantizer))
        names.append(attachment.name)
    effects, controls = None, None
    if metric is not None:
        sweeps = _sweeps(chain, text, metric, progress)
        n_tokens = batch.tokens.shape[1]
        effects = _at_positions(sweeps, "effect", n_tokens)
        controls = _at_positions(sweeps, "control", n_tokens)
    return SentenceFlow(
        quantizers=tuple(names),
        tokens=strings_at_positions(batch, host),
        codes=np.stack(codes),
        metric=None if metric is None else name_of(metric),
        effects=effects,
        controls=controls,
        colors=tuple(colors),
    )


def _sweeps(
    chain: Sequence[Attachment],
    text: str | Tensor,
    metric: Metric | LogitsFunction,
    progress: bool,
) -> list[AblationSweep]:
    """For each quantizer, what ablating its code at each position does."""
    sweeps: list[AblationSweep] = []
    for attachment in chain:
        sweep = ablation_sweep(attachment, text, metric, by_position=True, progress=progress)
        sweeps.append(sweep)
    return sweeps


def _at_positions(
    sweeps: Sequence[AblationSweep], column: str, n_tokens: int
) -> Float[np.ndarray, "quantizer pos"]:
    """A column of sweeps by position; NaN where nothing was ablated, such as special tokens."""
    values = np.full((len(sweeps), n_tokens), np.nan)
    for row, sweep in zip(values, sweeps, strict=True):
        frame = sweep.frame()  # sorted by effect, so positions say where each number belongs
        row[frame["position"].to_numpy()] = frame[column].to_numpy()
    return values
