"""Fitting a baseline and putting it on the model beside the quantizer that it is compared with."""

from collections.abc import Callable, Iterator
from typing import get_args

import torch

from clvq_lens.arguments import check_choice, check_count
from clvq_lens.baselines.clusterings import CLUSTERINGS, OF_THE_TARGET, cluster_codes_, sample_size
from clvq_lens.baselines.features import DICTIONARIES, strongest_feature
from clvq_lens.baselines.kinds import Baseline, check_kind
from clvq_lens.baselines.single_layer import single_layer
from clvq_lens.baselines.task import Task
from clvq_lens.baselines.token_identity import token_embedding, token_identity
from clvq_lens.config import DecoderName, FitConfig
from clvq_lens.data.documents import Data, open_documents
from clvq_lens.host.attachment import Attachment
from clvq_lens.host.lenses import free_name, require_free_name
from clvq_lens.training.decoding import fit_decoder


def attach_baseline(
    like: Attachment,
    kind: Baseline,
    data: Data,
    config: FitConfig,
    *,
    decoder: DecoderName = "table",
    name: str | None,
    n_active: int,
    progress: bool,
) -> Attachment:
    """Fits a baseline of a fitted quantizer and attaches it beside it; see `clvq_lens.baselines`.

    Args:
        like: The quantizer that it is compared with.
        kind: Kind of the baseline, such as "k-means".
        data: The documents that ``like`` was fitted on.
        config: Options of the fit of ``like``.
        decoder: Kind of its decoder; all but the table are trained.
        name: Name of the baseline; None: those of the quantizer and the kind, with a number from
            the second one on.
        n_active: Features active in a token, of a sparse autoencoder or transcoder.
        progress: Whether to show progress bars.

    Raises:
        ConfigError: If no baseline or decoder has this name, or ``n_active`` is impossible.
        NameTakenError: If the model has a quantizer of that name.
        EmptyCorpusError: If the data hold no real token.
        HookNotFoundError: If the model has no hook point of token embeddings, for "token identity".
        TooFewTokensError: If the data hold fewer distinct tokens than there are codes.
    """
    check_kind(kind)
    host, source = like.host, like.source
    require_free_name(host.model, name)
    check_count("n_active", n_active)
    check_choice("decoder", decoder, get_args(DecoderName))
    if kind == "token identity":
        source = token_embedding(host)
    elif kind == OF_THE_TARGET:
        source = like.target
    task = Task(
        like=like,
        source=source,
        kind=kind,
        name=name or free_name(host.model, f"{like.name} {kind}"),
        # Some kinds read the data twice, and an iterator can be read only once.
        data=open_documents(data) if isinstance(data, Iterator) else data,
        config=config,
        n_active=n_active,
        progress=progress,
    )
    return with_trained_decoder(_FITTERS[kind](task), task, decoder)


def with_trained_decoder(attachment: Attachment, task: Task, decoder: DecoderName) -> Attachment:
    """The same baseline with the decoder that it will have, ready for use.

    Args:
        attachment: The baseline with a table; taken off the model if its decoder cannot be trained.
        task: What it was fitted to.
        decoder: Kind of its decoder.
    """
    if decoder != "table":
        try:
            history = fit_decoder(
                attachment,
                task.data,
                task.config,
                decoder,
                memory=task.like.quantizer.config.decoder_memory,
                progress=task.progress,
            )
            history.require_whole()
        except BaseException:
            attachment.detach()
            raise
    attachment.recognize_model()
    attachment.quantizer.eval()
    return attachment


@torch.no_grad()
def clustering(task: Task) -> Attachment:
    """A quantizer whose codes are clusters of source activations."""
    with task.attached(_width_of_source(task)) as attachment:
        codebook, n_codes = attachment.quantizer.codebook, attachment.quantizer.config.n_codes
        reading = task.reading(attachment)
        (z,) = reading.sample(sample_size(task.kind, n_codes, reading.n_tokens), "source")
        cluster_codes_(codebook, task.kind, z, reading.generator, progress=task.progress)
        reading.finish()
    return attachment


def _width_of_source(task: Task) -> int | None:
    """That of the target where it is the target that is clustered; None: that of `like`."""
    return task.like.quantizer.d_target if task.kind == OF_THE_TARGET else None


_FITTERS: dict[str, Callable[[Task], Attachment]] = {
    **dict.fromkeys(CLUSTERINGS, clustering),
    "single-layer VQ-VAE": single_layer,
    "token identity": token_identity,
    **dict.fromkeys(DICTIONARIES, strongest_feature),
}
