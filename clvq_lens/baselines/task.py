"""Task: what a baseline is fitted to, and the steps that all kinds share."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from clvq_lens.config import EncoderName, FitConfig
from clvq_lens.data.activations import Activations, End
from clvq_lens.data.documents import Data
from clvq_lens.host.attachment import Attachment
from clvq_lens.host.host import Host
from clvq_lens.host.lenses import free_name
from clvq_lens.quantizer.codebook import Codebook
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from clvq_lens.quantizer.encoders import AdaptiveResidualEncoder
from clvq_lens.quantizer.sae_prediction import SAEOptions
from clvq_lens.training.frozen import frozen_pass
from clvq_lens.training.training_data import TrainingData, sample_of


@dataclass(frozen=True, kw_only=True)
class Task:
    """A baseline to be fitted.

    Attributes:
        like: The quantizer that it is matched to, fitted.
        source: Hook point that the baseline reads.
        kind: Kind of the baseline, such as "k-means".
        name: Name of the baseline on the model.
        data: Documents.
        config: Options of the fit of ``like``.
        n_active: Features active in a token.
        progress: Whether to show progress bars.
    """

    like: Attachment
    source: str
    kind: str
    name: str
    data: Data
    config: FitConfig
    n_active: int
    progress: bool

    @property
    def host(self) -> Host:
        """The model."""
        return self.like.host

    @contextmanager
    def attached(
        self,
        d_source: int | None = None,
        *,
        codebook: type[Codebook] = Codebook,
        sae: SAEOptions | None = None,
        **options: int,
    ) -> Iterator[Attachment]:
        """While open, a quantizer that decodes by a table is fitted.

        It encodes by the identity, or by an SAE whose features predict the target.

        Afterwards it stays on the model, unless an error was raised. It leaves out the outliers
        that ``like`` leaves out.

        Args:
            d_source: Width of the activations that it reads; None: it reads what ``like`` reads.
            codebook: The class of its codebook.
            sae: Options of the SAE that it encodes by; None: by the identity.
            **options: Options of `CLVQConfig` in which it differs from ``like``, such as n_codes.
        """
        like = self.like.quantizer
        encoder: EncoderName = "residual" if sae is None else "predictive"
        config = like.config.replace(
            encoder=encoder, decoder="table", decoder_memory="codes", **options
        )
        quantizer = CrossLayerQuantizer(
            config,
            d_source or like.d_source,
            like.d_target,
            causal=like.causal,
            codebook=codebook,
            sae=sae,
        )
        if isinstance(quantizer.encoder, AdaptiveResidualEncoder):  # which `config` asks for
            quantizer.encoder.be_identity_()
        # The units and limits of `like`, so that both are measured on the same tokens.
        quantizer.target_variance.copy_(like.target_variance)
        quantizer.max_target_norm.copy_(like.max_target_norm)
        if d_source is None:  # other activations, such as embeddings, are of another length
            quantizer.max_source_norm.copy_(like.max_source_norm)
        attachment = Attachment(self.host, quantizer, self.name, self.source, self.like.target)
        try:
            yield attachment
        except BaseException:
            attachment.detach()
            raise

    @contextmanager
    def alone(self, quantizer: CrossLayerQuantizer) -> Iterator[Attachment]:
        """While open, a quantizer reads the source and reconstructs it; then it is removed."""
        name = free_name(self.host.model, f"{self.name} alone")
        attachment = Attachment(self.host, quantizer, name, self.source, self.source)
        try:
            yield attachment
        finally:
            attachment.detach()

    def training_data(self, attachment: Attachment) -> TrainingData:
        """The documents that ``like`` was trained on."""
        return TrainingData(attachment, self.data, self.config, progress=self.progress)

    def reading(self, attachment: Attachment) -> "Reading":
        """The documents that ``like`` was trained on, as a stream of activations."""
        data = self.training_data(attachment)
        return Reading(attachment, data, self.config, progress=self.progress)


class Reading:
    """Reads the documents that a quantizer would be trained on, as often as needed.

    Args:
        attachment: The baseline on its model.
        data: The documents.
        config: Options of the fit.
        progress: Whether to show progress bars.
    """

    def __init__(
        self, attachment: Attachment, data: TrainingData, config: FitConfig, *, progress: bool
    ) -> None:
        self.generator = data.generator
        self._config = config
        self._quantizer, self._data, self._progress = attachment.quantizer, data, progress
        self._stream = data.open(whole_sequences=False)

    @property
    def n_tokens(self) -> int:
        """Tokens to train on, repetitions counted."""
        return self._data.n_tokens

    def once(self) -> Iterator[Activations]:
        """All training tokens one time, or as many as the fit has."""
        return self._data.once(self._stream)

    def again_and_again(self) -> Iterator[Activations]:
        """Shuffled batches, until the tokens of the fit are spent."""
        n_read = 0
        for batch in self._stream:
            yield batch
            n_read += batch.n_tokens
            if n_read >= self.n_tokens:
                return

    def sample(self, size: int, *ends: End) -> tuple[Float[Tensor, "n _"], ...]:
        """Activations of some training tokens, each as likely as any other.

        Args:
            size: How many tokens, at most.
            *ends: "source", "target" or both.

        Raises:
            EmptyCorpusError: If there is no real token.
        """
        return sample_of(self.once(), size, *ends, generator=self.generator)

    def finish(self) -> None:
        """The frozen pass: usage, means and the table; and the record of how much was read.

        Raises:
            KeyboardInterrupt: If Ctrl-C ended it early: a baseline has no history that says so.
        """
        self._quantizer.fit_config = self._config.replace(n_tokens=self.n_tokens)
        frozen = frozen_pass(self._quantizer, self._data, self._stream, progress=self._progress)
        if not frozen.complete:
            raise KeyboardInterrupt
