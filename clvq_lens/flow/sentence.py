"""The flow of one text: which concept each token is in at every quantizer, and its effect."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float, Int
from torch import Tensor

from clvq_lens.arguments import check_seed
from clvq_lens.concepts.encoding import batch_codes, colours_of
from clvq_lens.errors import DataError
from clvq_lens.flow.chain import require_chain
from clvq_lens.flow.names import CodeNames, names_by_stage
from clvq_lens.host.attach import lenses_of
from clvq_lens.interventions.metrics import LogitsFunction, Metric, name_of
from clvq_lens.interventions.runs import require_real
from clvq_lens.interventions.sweep import AblationSweep, ablation_sweep, token_labels
from clvq_lens.plots.running_text import WIDTH
from clvq_lens.plots.sentence import plot_sentence
from clvq_lens.training.tokens import one_batch


@dataclass(frozen=True)
class SentenceFlow:
    """The codes of one text, at every quantizer of a model.

    Attributes:
        quantizers: Their names, in order of depth.
        tokens: What stands at each position.
        codes: The code of each token, -1 for special tokens.
        metric: The name of the metric; None: no effects were measured.
        effects: What ablating that code at that position changes the metric by; NaN for special
            tokens.
        controls: What a random code at that position changes it by.
        colours: Of the codes of each quantizer, the same as in every other figure.
    """

    quantizers: tuple[str, ...]
    tokens: tuple[str, ...]
    codes: Int[np.ndarray, "quantizer pos"]
    metric: str | None = None
    effects: Float[np.ndarray, "quantizer pos"] | None = None
    controls: Float[np.ndarray, "quantizer pos"] | None = None
    colours: tuple[tuple[str, ...], ...] = ()

    def frame(self, labels: Mapping[str, CodeNames] | CodeNames | None = None) -> pd.DataFrame:
        """One row for each quantizer and token; the code is -1 for special tokens.

        Args:
            labels: Names of codes, as for `plot`.
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
        if labels is not None:
            names = names_by_stage(labels, self.quantizers)
            pairs = zip(frame["quantizer"], frame["code"], strict=True)
            frame["label"] = [names.get(quantizer, {}).get(code, "") for quantizer, code in pairs]
        return frame

    def plot(
        self,
        labels: Mapping[str, CodeNames] | CodeNames | None = None,
        *,
        width: int = WIDTH,
    ) -> go.Figure:
        """The text, and below each token its concept at every quantizer, with effects as bars.

        Args:
            labels: Names of codes, for each quantizer by its name: ``{"0-1": {17: "animals"}}``.
                With a single quantizer, also its names alone.
            width: Characters in a line: about 40 for a narrow page.
        """
        colours = dict(zip(self.quantizers, self.colours, strict=False))
        metric = self.metric or ""
        return plot_sentence(self.frame(labels or {}), metric=metric, colours=colours, width=width)


def sentence_flow(
    model: Any,
    text: str | Tensor,
    *,
    metric: Metric | LogitsFunction | None = None,
    seed: int = 0,
    progress: bool = False,
) -> SentenceFlow:
    """The concept of each token of one text, from quantizer to quantizer.

    Args:
        model: A model with one fitted quantizer or several.
        text: One text, or its tokens.
        metric: If given, every code is ablated at every position, one at a time, in the model:
            `logit_diff`, `probability`, `loss`, `kl`, or any function of logits that returns one
            number. Beside each effect stands that of a random code at the same position.
        seed: Of the random codes.
        progress: Whether to show a progress bar.

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
    check_seed(seed)
    chain = require_chain(model)
    host = chain[0].host
    batch = one_batch(host, text)
    if len(batch.tokens) != 1:
        raise DataError(
            f"There are {len(batch.tokens)} texts, and the flow is that of one. Pass texts[0]."
        )
    require_real(batch)
    codes = []
    for attachment in chain:
        attachment.quantizer.eval()
        found, _ = batch_codes(host, attachment.quantizer, attachment.source, batch)
        codes.append(found[0].masked_fill(~batch.mask[0], -1).numpy())
    effects = controls = None
    if metric is not None:
        lenses = [lenses_of(model)[attachment.name] for attachment in chain]
        options: dict[str, Any] = {"by_position": True, "seed": seed, "progress": progress}
        sweeps = [ablation_sweep(lens, text, metric, **options) for lens in lenses]
        n_tokens = batch.tokens.shape[1]
        effects, controls = (
            np.stack([_at_positions(sweep, column, n_tokens) for sweep in sweeps])
            for column in ("effect", "control")
        )
    return SentenceFlow(
        quantizers=tuple(attachment.name for attachment in chain),
        tokens=token_labels(batch, host),
        codes=np.stack(codes),
        metric=None if metric is None else name_of(metric),
        effects=effects,
        controls=controls,
        colours=tuple(colours_of(attachment.quantizer) for attachment in chain),
    )


def _at_positions(sweep: AblationSweep, column: str, n_tokens: int) -> Float[np.ndarray, " pos"]:
    """A column of a sweep by position, as one number for each position of its one text."""
    frame, values = sweep.frame(), np.full(n_tokens, np.nan)
    values[frame["position"].to_numpy()] = frame[column].to_numpy()
    return values
