"""Lens: what ``add_clvq`` returns. It names the verbs; the work is done in the rooms below."""

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any, Unpack

import plotly.graph_objects as go

from clvq_lens.baselines.baseline import attach_baseline
from clvq_lens.baselines.kinds import Baseline
from clvq_lens.concepts.encoding import encode
from clvq_lens.concepts.survey import concepts
from clvq_lens.config import CLVQConfig, DecoderName, FitConfig, FitOptions, fit_config
from clvq_lens.data.documents import Data
from clvq_lens.evaluation.evaluate import evaluate
from clvq_lens.faithfulness.protocols import faithfulness
from clvq_lens.host.attachment import Attachment, ready
from clvq_lens.host.host import Host
from clvq_lens.host.lenses import forget_lens, remember_lens
from clvq_lens.host.modes import require_gradients
from clvq_lens.hub.push import push_to_hub
from clvq_lens.interventions.editing import edit, project_out, splice
from clvq_lens.page.browse import browse
from clvq_lens.page.report import report
from clvq_lens.plots.codebook_map import MapMethod, plot_codebook
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from clvq_lens.quantizer.files import save
from clvq_lens.training.fit import fit


class Lens:
    """A quantizer on a model: fit it, read its concepts, test them, keep it.

    Most verbs are functions of the rooms that do the work, whose first argument is the lens.

    Args:
        attachment: From `clvq_lens.add_clvq`.
    """

    def __init__(self, attachment: Attachment) -> None:
        self.attachment = attachment
        remember_lens(self.model, self.name, self)

    # ---- what it is ----------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """Its name on the model."""
        return self.attachment.name

    @property
    def source(self) -> str:
        """The hook point that is read."""
        return self.attachment.source

    @property
    def target(self) -> str:
        """The hook point that is reconstructed."""
        return self.attachment.target

    @property
    def host(self) -> Host:
        """The model as the rest of the library sees it."""
        return self.attachment.host

    @property
    def model(self) -> Any:
        """The model that it is attached to."""
        return self.host.model

    @property
    def quantizer(self) -> CrossLayerQuantizer:
        """The quantizer itself."""
        return self.attachment.quantizer

    @property
    def config(self) -> CLVQConfig:
        """The quantizer's options."""
        return self.quantizer.config

    def __repr__(self) -> str:
        return f"Lens({self.name!r}: {self.source} -> {self.target}, {self._state})"

    def _repr_html_(self) -> str:
        points = f"<code>{escape(self.source)}</code> &rarr; <code>{escape(self.target)}</code>"
        return f"<p><b>Lens {escape(self.name)}</b>: {points}, {escape(self._state)}</p>"

    @property
    def _state(self) -> str:
        parts = [f"{self.config.n_codes} codes"]
        if self.quantizer.fitted:
            n_tokens = int(self.quantizer.usage.sum())
            parts.append(f"fitted on {n_tokens:,} tokens")
        else:
            parts.append("not fitted")
        if not self.attachment.attached:
            parts.append("removed")
        return ", ".join(parts)

    # ---- verbs ---------------------------------------------------------------------------------

    fit = fit
    encode = encode
    evaluate = evaluate
    faithfulness = faithfulness
    concepts = concepts
    report = report
    browse = browse
    push_to_hub = push_to_hub
    splice = splice
    edit = edit
    project_out = project_out

    def baseline(
        self,
        kind: Baseline,
        data: Data,
        config: FitConfig | None = None,
        *,
        decoder: DecoderName = "table",
        name: str | None = None,
        n_active: int = 32,
        progress: bool = True,
        **options: Unpack[FitOptions],
    ) -> "Lens":
        """Another way to give tokens codes, as a lens on the same model.

        It has as many codes, the same target, and all verbs of a lens. Fit it on the data that this
        lens was fitted on. It leaves out the outliers that this lens leaves out. Codes are compared
        on equal terms where decoders are the same: pass that of this lens.

        Args:
            kind: Such as "k-means"; `clvq_lens.baselines` describes them all.
            data: Documents, as for `fit`.
            config: As for `fit`; None: as this lens was fitted, with as many tokens.
            decoder: "table" holds the mean target of each code; another one is trained as that of a
                lens is, on codes that stay what they are, with the options of this lens.
            name: Name of the baseline; None: such as "4-8 k-means".
            n_active: Features active in a token, of a sparse autoencoder or transcoder.
            progress: Whether to show progress bars.
            **options: Options of `FitConfig` by name, such as n_tokens, long_texts and seed.

        Returns:
            The fitted baseline; its ``remove()`` takes it off the model again.

        Raises:
            ConfigError: If there is no such baseline or decoder.
            NotFittedError: If this lens has not been fitted.
            NameTakenError: If the model has a quantizer of that name.
            TooFewTokensError: If there are fewer distinct tokens than codes.
        """
        like = ready(self, "fit a baseline")
        require_gradients("A baseline")
        config = fit_config(config, self.quantizer.fit_config, **options)
        attachment = attach_baseline(
            like,
            kind,
            data,
            config,
            decoder=decoder,
            name=name,
            n_active=n_active,
            progress=progress,
        )
        return Lens(attachment)

    def plot_codebook(
        self, names: Mapping[int, str] | None = None, *, method: MapMethod = "pca", seed: int = 0
    ) -> go.Figure:
        """A map of the codebook: near codes have similar code vectors, large ones many tokens.

        Args:
            names: What codes mean, such as ``lens.concepts(texts).names()``.
            method: "pca" or "tsne", as for `clvq_lens.plots.plot_codebook`.
            seed: Random seed for t-SNE.
        """
        self.quantizer.require_fitted()
        vectors, usage = self.quantizer.codebook.vectors, self.quantizer.usage
        return plot_codebook(
            vectors.cpu().numpy(), usage.cpu().numpy(), names, method=method, seed=seed
        )

    def save(self, folder: str | Path) -> Path:
        """Writes the quantizer to a folder; `clvq_lens.load` reads it."""
        return save(self.quantizer, folder)

    def remove(self) -> None:
        """Takes the quantizer off the model, which is then as it was found."""
        self.attachment.detach()
        forget_lens(self.model, self.name, self)
