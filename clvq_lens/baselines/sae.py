"""An SAE or transcoder that was trained elsewhere, as a baseline of a lens."""

from collections.abc import Iterator
from typing import Any, SupportsIndex

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clvq_lens.arguments import check_choice, check_count
from clvq_lens.baselines.baseline import with_trained_decoder
from clvq_lens.baselines.features import Output, place_vectors_
from clvq_lens.baselines.sae_check import MOST_CHECKED, check_strongest
from clvq_lens.baselines.sae_clusters import clusters_of_sae
from clvq_lens.baselines.sae_weights import SAEWeights, sae_weights
from clvq_lens.baselines.task import Task
from clvq_lens.config import CLVQConfig, DecoderName, FitConfig
from clvq_lens.data.documents import Data, open_documents
from clvq_lens.errors import ConfigError, HostMismatchError, UnsupportedSAEError
from clvq_lens.host.attachment import Attachment
from clvq_lens.host.host import Host
from clvq_lens.host.lenses import free_name, require_free_name
from clvq_lens.quantizer.sae_codebook import SAECodebook

_MOST_SAMPLED = 200_000  # tokens by which the features are chosen that become codes


def attach_sae(
    sae: Any,
    like: Attachment,
    data: Data,
    config: FitConfig,
    *,
    hook_point: SupportsIndex | str | None,
    n_active: int | None,
    n_codes: int | None,
    decoder: DecoderName,
    name: str | None,
    progress: bool,
) -> Attachment:
    """Puts the strongest features of an SAE beside a quantizer; see `clvq_lens.from_sae`."""
    weights, host = sae_weights(sae), like.host
    kind = "SAE" if n_active is None else f"SAE top {n_active}"
    require_free_name(host.model, name)
    check_choice("decoder", decoder, ("transformer", "mlp", "table"))
    n_features, width = weights.encoder.weights.shape
    output = None if n_active is None else _output_of_most(n_active, weights)
    most = n_features if output is None else None
    n_codes = _n_codes(n_codes, most, like.quantizer.config.n_codes)
    task = Task(
        like=like,
        source=_source(weights, host, hook_point, width),
        kind=kind,
        name=name or free_name(host.model, f"{like.name} {kind}"),
        # It is read twice, and an iterator can be read only once.
        data=open_documents(data) if isinstance(data, Iterator) else data,
        config=config,
        n_active=n_active or 1,
        progress=progress,
    )
    host.check_order(task.source, like.target)
    _check_processing(weights, like)
    if output is None:
        attachment = _attached(sae, weights, task, n_codes)
    else:
        attachment = clusters_of_sae(sae, weights, output, task, n_codes)
    return with_trained_decoder(attachment, task, decoder)


def _output_of_most(n_active: int, weights: SAEWeights) -> Output:
    """What the decoder makes of ``n_active`` features, if a token can have as many."""
    check_count("n_active", n_active)
    n_features, _ = weights.encoder.weights.shape
    if n_active > n_features:
        raise ConfigError(
            f"n_active is {n_active}, and the SAE has {n_features} features. Pass at most that."
        )
    if weights.most_active is not None and n_active > weights.most_active:
        raise ConfigError(
            f"n_active is {n_active}, and the SAE keeps {weights.most_active} features of a token. "
            f"Pass at most that."
        )
    if weights.output is None:
        raise UnsupportedSAEError(
            "The SAE has no decoder (its W_dec is missing), so its features cannot be added up. "
            "Load it with its decoder, or leave n_active out."
        )
    return weights.output


def _n_codes(wanted: int | None, n_features: int | None, n_of_lens: int) -> int:
    """How many codes there are; at most as many as features, where these become codes."""
    if wanted is None:
        return n_of_lens if n_features is None else min(n_features, n_of_lens)
    check_count("n_codes", wanted)
    if n_features is not None and wanted > n_features:
        raise ConfigError(
            f"n_codes is {wanted}, and the SAE has {n_features} features. Pass at most that."
        )
    return wanted


def _source(
    weights: SAEWeights, host: Host, hook_point: SupportsIndex | str | None, width: int
) -> str:
    """The hook point that it reads."""
    point = weights.hook_point if hook_point is None else hook_point
    if point is None:
        raise ConfigError(
            "The SAE does not say which hook point it reads. Pass hook_point=..., a layer or a "
            "name such as 'blocks.4.hook_resid_post'."
        )
    source = host.resolve(point)
    if host.width(source) != width:
        raise HostMismatchError(
            f"The SAE reads vectors of width {width}, and those at {source!r} have "
            f"{host.width(source)}. Pass an SAE of this model, or the hook point that it reads."
        )
    return source


def _check_processing(weights: SAEWeights, like: Attachment) -> None:
    """Raises `HostMismatchError` if the SAE was trained where residual streams have another mean.

    Where weights are centered, every vector of the residual stream lacks its mean, which an SAE
    that was trained without may look at.
    """
    normalization = str(getattr(like.host.cfg, "normalization_type", "LN"))
    origin = like.quantizer.origin
    if weights.centered is None or origin is None or normalization.startswith("RMS"):
        return
    if weights.centered != origin.weights_centered:
        trained, here = "not centered", "are"
        loader = "HookedTransformer.from_pretrained_no_processing"
        if weights.centered:
            trained, here, loader = "centered", "are not", "HookedTransformer.from_pretrained"
        raise HostMismatchError(
            f"The SAE was trained on a model whose writing weights are {trained}, and those of "
            f"this model {here}. Load the model with {loader}."
        )


@torch.no_grad()
def _attached(sae: Any, weights: SAEWeights, task: Task, n_codes: int) -> Attachment:
    """A quantizer whose codes are the features that are the strongest most often."""
    reads_as_lens = task.source == task.like.source
    width = None if reads_as_lens else weights.encoder.weights.shape[1]
    top_k = min(task.like.quantizer.config.resolved_top_k, n_codes)
    with task.attached(width, codebook=SAECodebook, n_codes=n_codes, top_k=top_k) as attachment:
        quantizer, codebook = attachment.quantizer, attachment.quantizer.codebook
        assert isinstance(codebook, SAECodebook)
        reading = task.reading(attachment)
        (z,) = reading.sample(min(_MOST_SAMPLED, reading.n_tokens), "source")
        features = _most_often_strongest(weights, z, n_codes)
        codebook.take_encoder_(weights.encoder, features)
        check_strongest(sae, codebook, z[:MOST_CHECKED])
        # The vectors come last: they depend on which tokens the frozen pass gives to each code.
        reading.finish()
        place_vectors_(quantizer, codebook, weights.output_of(features, quantizer.device))
    return attachment


def _most_often_strongest(
    weights: SAEWeights, z: Float[Tensor, "n d"], n_codes: int
) -> Int[Tensor, " k"]:
    """The features that are the strongest ones of most tokens, in the order that the SAE has."""
    n_features, d = weights.encoder.weights.shape
    if n_codes == n_features:
        return torch.arange(n_features)
    config = CLVQConfig(n_codes=n_features, top_k=1)
    all_features = SAECodebook(config, d, generator=torch.Generator()).to(z.device)
    all_features.take_encoder_(weights.encoder, torch.arange(n_features))
    counts = all_features.nearest(z).bincount(minlength=n_features)
    # Stable: of features that are equally common, the first in the SAE.
    most_common = counts.argsort(descending=True, stable=True)[:n_codes]
    return most_common.sort().values.cpu()
