"""Task: what a baseline is fitted to, and the parts that all kinds share."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from clvq_lens.config import FitConfig
from clvq_lens.errors import EmptyCorpusError
from clvq_lens.host.host import Host
from clvq_lens.quantizer.codebook import Codebook
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from clvq_lens.quantizer.initialization import Reservoir
from clvq_lens.training.activations import Activations
from clvq_lens.training.documents import Data
from clvq_lens.training.fit import Fit, until_enough


@dataclass(frozen=True, kw_only=True)
class Task:
    """A baseline to be fitted.

    Attributes:
        host: The model.
        like: The quantizer that it is matched to.
        source: Hook point that is read.
        target: Hook point that is reconstructed.
        kind: Which baseline.
        data: Documents.
        config: How ``like`` was fitted.
        n_active: Features active in a token.
        progress: Whether to show progress bars.
    """

    host: Host
    like: CrossLayerQuantizer
    source: str
    target: str
    kind: str
    data: Data
    config: FitConfig
    n_active: int
    progress: bool

    def quantizer(
        self,
        d_source: int | None = None,
        *,
        codebook: type[Codebook] = Codebook,
        **options: Any,
    ) -> CrossLayerQuantizer:
        """A quantizer that encodes by the identity and decodes by a table, not fitted yet.

        It leaves out the outliers that ``like`` leaves out.

        Args:
            d_source: Width of what it reads; None: it reads what ``like`` reads.
            codebook: The class of its codebook.
            **options: Options of `CLVQConfig`.
        """
        like = self.like
        config = like.config.replace(decoder="table", decoder_memory="codes", **options)
        widths = d_source or like.d_source, like.d_target
        quantizer = CrossLayerQuantizer(config, *widths, causal=like.causal, codebook=codebook)
        quantizer.encoder.be_identity_()
        quantizer.target_variance.copy_(like.target_variance)
        quantizer.max_target_norm.copy_(like.max_target_norm)
        if d_source is None:  # other activations, such as embeddings, are of another length
            quantizer.max_source_norm.copy_(like.max_source_norm)
        return quantizer.to(self.host.device_of(self.source))

    def reading(self, quantizer: CrossLayerQuantizer) -> "Reading":
        """The training documents, for a quantizer."""
        return Reading(self.fit(quantizer))

    def fit(self, quantizer: CrossLayerQuantizer) -> Fit:
        """A fit of a quantizer to the data, which knows the documents."""
        points = self.source, self.target
        return Fit(self.host, quantizer, *points, self.data, self.config, self.progress)


class Reading:
    """Reads the documents that a quantizer would be trained on, as often as needed.

    Args:
        fit: Which knows where they are, and gives codes their meaning in the end.
    """

    def __init__(self, fit: Fit) -> None:
        self.generator, self.d_source = fit.generator, fit.quantizer.d_source
        self._fit = fit
        self._stream = fit.open_stream(whole_sequences=False)
        self.config = fit.config
        self.n_tokens = fit.budget

    def once(self) -> Iterator[Activations]:
        """All training tokens one time, or as many as the fit has."""
        return self._fit.once(self._stream)

    def again_and_again(self) -> Iterator[Activations]:
        """Shuffled batches, until the tokens of the fit are spent."""
        return until_enough(iter(self._stream), self.n_tokens)

    def sample(self, size: int, *parts: str) -> Float[Tensor, "n d"]:
        """Some of the training tokens, each as likely as any other.

        Args:
            size: How many, at most.
            *parts: "source", "target" or both, side by side.

        Raises:
            EmptyCorpusError: If there is no real token.
        """
        sample = Reservoir(size, generator=self.generator)
        for batch in self.once():
            sample.add_(torch.cat([getattr(batch, part)[batch.mask] for part in parts], dim=1))
        if sample.n_seen == 0:
            raise EmptyCorpusError(
                "The data hold no real token: only special tokens such as BOS, or padding. "
                "Pass texts with words in them."
            )
        return sample.sample()

    def finish(self) -> None:
        """The frozen pass: usage, means and the table."""
        self._fit.frozen_pass(self._stream)
