"""Clusters of what the strongest features of an SAE say of the target."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from clvq_lens.baselines.baseline import with_trained_decoder
from clvq_lens.baselines.clusterings import cluster_codes_, sample_size
from clvq_lens.baselines.features import Output
from clvq_lens.baselines.kinds import Baseline
from clvq_lens.baselines.sae_check import MOST_CHECKED, check_sums
from clvq_lens.baselines.sae_weights import SAEWeights
from clvq_lens.baselines.task import Reading, Task
from clvq_lens.config import FitConfig
from clvq_lens.data.documents import Data
from clvq_lens.host.attachment import Attachment
from clvq_lens.quantizer.sae_prediction import SAEOptions, SAEPrediction

_KIND: Baseline = "k-means"
"""How predictions are clustered, and by how many tokens: as by that baseline."""


@torch.no_grad()
def clusters_of_sae(
    sae: Any, weights: SAEWeights, output: Output, task: Task, n_codes: int
) -> Attachment:
    """A quantizer whose codes are clusters of what the strongest features say of the target.

    Args:
        sae: The SAE, whose own encode and decode are looked at.
        weights: Its weights.
        output: What its decoder makes of active features.
        task: What is fitted; its ``n_active`` is how many features stand for a token.
        n_codes: How many clusters.
    """
    n_features, width = weights.encoder.weights.shape
    options = SAEOptions(
        n_features=n_features,
        n_active=task.n_active,
        d_output=len(output.bias),
        normalization=weights.encoder.normalization,
        restores=weights.restores,
    )
    if task.source == task.like.source:
        width = None
    top_k = min(task.like.quantizer.config.resolved_top_k, n_codes)
    with task.attached(width, sae=options, n_codes=n_codes, top_k=top_k) as attachment:
        encoder = _encoder(attachment)
        encoder.take_sae_(weights.encoder, output.directions, output.bias)
        reading = task.reading(attachment)
        source, target = _sample(reading, n_codes)
        check_sums(sae, encoder, source[:MOST_CHECKED])
        _cluster_(attachment, reading, source, target, progress=task.progress)
    return attachment


def clusters_again(
    like: Attachment, data: Data, config: FitConfig, *, name: str, progress: bool
) -> Attachment:
    """The same features, with regression, clusters and decoder fitted again.

    Args:
        like: What `clusters_of_sae` gave; it stays as it is.
        data: Documents.
        config: How to read them, and the seed.
        name: Name of the second quantizer on the model.
        progress: Whether to show progress bars.
    """
    features = _encoder(like)
    task = Task(
        like=like,
        source=like.source,
        kind="SAE",
        name=name,
        data=data,
        config=config,
        n_active=features.options.n_active,
        progress=progress,
    )
    with task.attached(sae=features.options) as attachment, torch.no_grad():
        _encoder(attachment).load_state_dict(features.state_dict())
        reading = task.reading(attachment)
        source, target = _sample(reading, attachment.quantizer.config.n_codes)
        _cluster_(attachment, reading, source, target, progress=task.progress)
    return with_trained_decoder(attachment, task, like.quantizer.config.decoder)


def _encoder(attachment: Attachment) -> SAEPrediction:
    encoder = attachment.quantizer.encoder
    assert isinstance(encoder, SAEPrediction)
    return encoder


def _sample(reading: Reading, n_codes: int) -> tuple[Tensor, Tensor]:
    """Source and target of as many tokens as the baseline "k-means" clusters."""
    source, target = reading.sample(
        sample_size(_KIND, n_codes, reading.n_tokens), "source", "target"
    )
    return source.float(), target.float()


def _cluster_(
    attachment: Attachment,
    reading: Reading,
    source: Float[Tensor, "n d_source"],
    target: Float[Tensor, "n d_target"],
    *,
    progress: bool,
) -> None:
    """Fits the regression and then the codes on one sample, and records the frozen pass."""
    quantizer = attachment.quantizer
    _encoder(attachment).start_(source, target)
    z = quantizer.encode(source)
    cluster_codes_(quantizer.codebook, _KIND, z, reading.generator, progress=progress)
    reading.finish()
