"""Dictionaries of features, each token reduced to the strongest one."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from clvq_lens.baselines.clusterings import check_rows
from clvq_lens.baselines.sparse import Pairs, SparseFeatures, train_
from clvq_lens.baselines.task import Reading, Task
from clvq_lens.data.activations import End
from clvq_lens.host.attachment import Attachment
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from clvq_lens.quantizer.feature_codebook import FeatureCodebook
from clvq_lens.quantizer.units import Units

DICTIONARIES = (
    "sparse autoencoder",
    "transcoder",
    "random sparse autoencoder",
    "random transcoder",
)
"""The kinds of baselines whose codes are features."""

_START_PER_CODE = 128  # tokens from which units are measured and features start


def strongest_feature(task: Task) -> Attachment:
    """A quantizer whose codes are features of a sparse autoencoder or transcoder."""
    with task.attached(codebook=FeatureCodebook) as attachment:
        quantizer, codebook = attachment.quantizer, attachment.quantizer.codebook
        assert isinstance(codebook, FeatureCodebook)
        reading = task.reading(attachment)
        explained: End = "target" if task.kind.endswith("transcoder") else "source"
        trained = _TrainedFeatures(task, reading, explained, quantizer.config.n_codes)
        codebook.take_features_(*trained.affine())
        # The vectors come last: they depend on which tokens the frozen pass gives to each code.
        reading.finish()
        place_vectors_(quantizer, codebook, trained.output)
    return attachment


class Output(NamedTuple):
    """What features make of the source: the bias, and a direction times each activation.

    Attributes:
        bias: The output where no feature is active.
        directions: What each feature adds where its activation is 1.
    """

    bias: Float[Tensor, " d"]
    directions: Float[Tensor, "k d"]


class _TrainedFeatures:
    """Features, trained on numbers of order one, in the units of the model."""

    def __init__(self, task: Task, reading: Reading, explained: End, n_codes: int) -> None:
        self.reconstructs_source = explained == "source"
        x, y = self._start(reading, explained, n_codes)
        self.x_units = Units(x.shape[1]).to(x.device)
        self.y_units = Units(y.shape[1]).to(y.device)
        self.x_units.measure_(x)
        self.y_units.measure_(y)
        self.features = SparseFeatures(
            self.x_units.strip(x),
            self.y_units.strip(y),
            n_codes,
            n_active=task.n_active,
            learns_encoder=not task.kind.startswith("random"),
            generator=reading.generator,
        )
        train_(
            self.features,
            self._pairs(reading, explained),
            n_tokens=reading.n_tokens,
            dead_after=task.like.quantizer.config.resolved_dead_after_tokens,
            progress=task.progress,
        )

    def _start(self, reading: Reading, explained: End, n_codes: int) -> tuple[Tensor, Tensor]:
        x, y = reading.sample(_START_PER_CODE * n_codes, "source", explained)
        check_rows(torch.cat([x, y], dim=1), n_codes)  # each feature starts at one of its own
        return x, y

    def _pairs(self, reading: Reading, explained: End) -> Pairs:
        for batch in reading.again_and_again():
            x, y = batch.of_real_tokens("source"), batch.of_real_tokens(explained)
            yield self.x_units.strip(x), self.y_units.strip(y)

    @torch.no_grad()
    def affine(self) -> tuple[Tensor, Tensor, Tensor]:
        """Weights, bias and center of activations, in units of the output."""
        features, scale = self.features, self.y_units.scale
        center = self.x_units.restore(features.center)
        return (
            features.encoder * scale / self.x_units.scale,
            features.encoder_bias * scale,
            center,
        )

    @property
    def output(self) -> Output | None:
        """What features make of the source; None of a transcoder, whose output is another place."""
        if not self.reconstructs_source:
            return None
        bias = self.y_units.restore(self.features.bias.detach())
        return Output(bias, self.features.decoder.detach())


@torch.no_grad()
def place_vectors_(
    quantizer: CrossLayerQuantizer, codebook: FeatureCodebook, output: Output | None
) -> None:
    """Gives codes their vectors, now that it is known which tokens they have.

    For an autoencoder, a vector is its bias and the feature alone, as active as it is on average in
    the tokens of the code. A transcoder has no directions in the source, so a vector is the mean of
    these tokens.

    Args:
        quantizer: A quantizer after the frozen pass.
        codebook: Its codebook.
        output: What the features make of the source; None: of a transcoder.
    """
    used, shares = quantizer.usage > 0, quantizer.shares
    # Activations are linear before the choice of the largest, so the mean token has the mean one.
    own = codebook.own_activations(quantizer.mean_encoded)
    mean = shares @ own
    codebook.mean_distance.copy_(mean.clamp_min(torch.finfo(torch.float32).tiny))
    active = torch.where(used, own, mean).unsqueeze(1)
    if output is not None:
        codebook.vectors.copy_(output.bias + active * output.directions)
        return
    # A code without tokens: from the mean, in the direction that activates the feature.
    toward = quantizer.source_mean + quantizer.mean_encoded.std() * F.normalize(codebook.weights)
    codebook.vectors.copy_(torch.where(used.unsqueeze(1), quantizer.mean_encoded, toward))
