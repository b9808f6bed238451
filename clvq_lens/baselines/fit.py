"""Fitting a baseline: a quantizer with the identity as encoder and a table as decoder."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from clvq_lens.baselines.choice import check_kind
from clvq_lens.baselines.clusterings import CLUSTERINGS, check_rows, sample_size
from clvq_lens.config import FitConfig
from clvq_lens.errors import EmptyCorpusError, NameTakenError
from clvq_lens.host.attach import Attachment, lenses_of
from clvq_lens.host.host import Host
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from clvq_lens.quantizer.initialization import Reservoir
from clvq_lens.training.activations import ShuffledStream
from clvq_lens.training.documents import Data
from clvq_lens.training.fit import Fit, until_enough


def attach_baseline(
    attachment: Attachment, kind: str, data: Data, config: FitConfig, progress: bool
) -> Attachment:
    """Fits a baseline of an attached quantizer and attaches it beside it.

    Raises:
        ConfigError: If there is no such baseline.
        NameTakenError: If it is attached already.
    """
    check_kind(kind)
    host, name = attachment.host, f"{attachment.name} {kind}"
    if name in lenses_of(host.model):
        raise NameTakenError(
            f"This model already has a quantizer named {name!r}. Remove it with "
            f"model.clvqs[{name!r}].remove() before you fit it again."
        )
    like, points = attachment.quantizer, (attachment.source, attachment.target)
    quantizer = fit_baseline(host, like, *points, kind, data, config, name=name, progress=progress)
    assert quantizer.origin is not None
    source = host.protocol.local(quantizer.origin.source)
    return Attachment(host, quantizer, name, host.resolve(source), attachment.target)


def fit_baseline(
    host: Host,
    like: CrossLayerQuantizer,
    source: str,
    target: str,
    kind: str,
    data: Data,
    config: FitConfig,
    *,
    name: str,
    progress: bool = True,
) -> CrossLayerQuantizer:
    """Fits a baseline that is matched to a quantizer; see `clvq_lens.Lens.baseline`.

    Args:
        host: The model.
        like: The quantizer that it is compared with, fitted.
        source: Hook point that is read.
        target: Hook point that is reconstructed.
        kind: Which baseline.
        data: Documents, as ``like`` was fitted on.
        config: As ``like`` was fitted.
        name: Of the baseline on the model.
        progress: Whether to show progress bars.

    Returns:
        A fitted quantizer, whose origin says where it reads.

    Raises:
        ConfigError: If there is no such baseline.
        EmptyCorpusError: If the data hold no real token.
        TooFewTokensError: If they hold fewer distinct tokens than there are codes.
    """
    check_kind(kind)
    task = _Task(host, like, source, target, kind, data, config, progress)
    quantizer = clustering(task)
    quantizer.origin = host.origin(source, target, name)
    return quantizer.eval()


@dataclass(frozen=True)
class _Task:
    """What is to be fitted."""

    host: Host
    like: CrossLayerQuantizer
    source: str
    target: str
    kind: str
    data: Data
    config: FitConfig
    progress: bool

    def quantizer(self, **options: Any) -> CrossLayerQuantizer:
        """One without an encoder and with a table, to be given a codebook."""
        like = self.like
        options = {"decoder": "table", "decoder_memory": "codes", **options}
        config = like.config.replace(**options)
        quantizer = CrossLayerQuantizer(config, like.d_source, like.d_target, causal=like.causal)
        quantizer.encoder.be_identity_()
        quantizer.target_variance.copy_(like.target_variance)
        return quantizer.to(like.device)

    def fit(self, quantizer: CrossLayerQuantizer) -> tuple[Fit, ShuffledStream]:
        """What reads the training documents, and gives codes their meaning in the end."""
        points = self.source, self.target
        fit = Fit(self.host, quantizer, *points, self.data, self.config, self.progress)
        stream = ShuffledStream(
            fit.activations,
            fit.split.training,
            buffer_bytes=self.config.buffer_bytes,
            batch_tokens=self.config.batch_tokens,
            whole_sequences=False,
            generator=fit.generator,
        )
        return fit, stream


@torch.no_grad()
def clustering(task: _Task) -> CrossLayerQuantizer:
    """A codebook of clusters of source activations."""
    quantizer = task.quantizer()
    fit, stream = task.fit(quantizer)
    n_codes = quantizer.config.n_codes
    size = sample_size(task.kind, n_codes, task.config.n_tokens)
    z = _sample(stream, size, task.config.n_tokens, fit.generator)
    check_rows(z, n_codes)
    clusters = CLUSTERINGS[task.kind](z, n_codes, fit.generator)
    quantizer.codebook.initialize_(clusters)
    quantizer.codebook.measure_distance_(z, quantizer.codebook.nearest(z), decay=0.0)
    fit.frozen_pass(stream)
    return quantizer


def _sample(
    stream: ShuffledStream, size: int, n_tokens: int, generator: torch.Generator
) -> Float[Tensor, "n d_source"]:
    """Some of the training tokens, each as likely as any other."""
    sample = Reservoir(size, generator=generator)
    for batch in until_enough(stream.once(), n_tokens):
        sample.add_(batch.source[batch.mask])
    if sample.n_seen == 0:
        raise EmptyCorpusError(
            "The data hold no real token: only special tokens such as BOS, or padding. "
            "Pass texts with words in them."
        )
    return sample.sample()
