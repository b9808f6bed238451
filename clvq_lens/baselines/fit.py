"""Fitting a baseline and putting it on the model beside the quantizer that it is compared with."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch

from clvq_lens.arguments import check_is
from clvq_lens.baselines.choice import check_kind
from clvq_lens.baselines.clusterings import CLUSTERINGS, check_rows, sample_size
from clvq_lens.baselines.features import strongest_feature
from clvq_lens.baselines.single_layer import single_layer
from clvq_lens.baselines.task import Task
from clvq_lens.baselines.token_identity import token_embedding, token_identity
from clvq_lens.config import FitConfig
from clvq_lens.errors import ConfigError, NameTakenError
from clvq_lens.host.attach import Attachment, lenses_of
from clvq_lens.host.host import Host
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from clvq_lens.training.documents import Data, open_documents


def attach_baseline(
    attachment: Attachment,
    kind: str,
    data: Data,
    config: FitConfig,
    *,
    name: str | None = None,
    n_active: int = 32,
    progress: bool = True,
) -> Attachment:
    """Fits a baseline of an attached quantizer and attaches it beside it.

    Args:
        attachment: Of the quantizer, which is fitted.
        kind: Which baseline.
        data: Documents.
        config: As the quantizer was fitted.
        name: Of the baseline; None: those of the quantizer and the kind, with a number from the
            second one on.
        n_active: Features active in a token, of a sparse autoencoder or transcoder.
        progress: Whether to show progress bars.

    Raises:
        ConfigError: If there is no such baseline.
        NameTakenError: If the model has a quantizer of that name.
    """
    check_kind(kind)
    host = attachment.host
    name = _free_name(host, name, f"{attachment.name} {kind}")
    like, points = attachment.quantizer, (attachment.source, attachment.target)
    options = {"n_active": n_active, "progress": progress}
    quantizer = fit_baseline(host, like, *points, kind, data, config, **options)
    assert quantizer.origin is not None
    quantizer.origin = replace(quantizer.origin, name=name)
    source = host.resolve(host.protocol.local(quantizer.origin.source))
    return Attachment(host, quantizer, name, source, attachment.target)


def _free_name(host: Host, wanted: str | None, usual: str) -> str:
    check_is("name", wanted, str | None, "Pass a string, or leave it out.")
    taken = lenses_of(host.model)
    if wanted is None:
        later = (f"{usual} {number}" for number in itertools.count(2))
        return next(name for name in itertools.chain([usual], later) if name not in taken)
    if wanted in taken:
        raise NameTakenError(
            f"This model already has a quantizer named {wanted!r}. Remove it with "
            f"model.clvqs[{wanted!r}].remove(), or pass another name=...."
        )
    return wanted


def fit_baseline(
    host: Host,
    like: CrossLayerQuantizer,
    source: str,
    target: str,
    kind: str,
    data: Data,
    config: FitConfig,
    *,
    n_active: int = 32,
    progress: bool = True,
) -> CrossLayerQuantizer:
    """Fits a baseline that is matched to a quantizer; see `clvq_lens.baselines`.

    Args:
        host: The model.
        like: The quantizer that it is compared with, fitted.
        source: Hook point that is read.
        target: Hook point that is reconstructed.
        kind: Which baseline.
        data: Documents, as ``like`` was fitted on.
        config: As ``like`` was fitted.
        n_active: Features active in a token, of a sparse autoencoder or transcoder.
        progress: Whether to show progress bars.

    Returns:
        A fitted quantizer, whose origin says where it reads.

    Raises:
        ConfigError: If there is no such baseline, or ``n_active`` is impossible.
        EmptyCorpusError: If the data hold no real token.
        HookNotFoundError: If the model has no hook point of token embeddings, for "token identity".
        TooFewTokensError: If they hold fewer distinct tokens than there are codes.
    """
    check_kind(kind)
    if isinstance(n_active, bool) or not isinstance(n_active, int) or n_active < 1:
        raise ConfigError(f"n_active is {n_active!r}; pass a whole number above 0.")
    task = Task(
        host=host,
        like=like,
        source=source,
        target=target,
        kind=kind,
        # Some kinds read the data twice, and an iterator can be read only once.
        data=open_documents(data) if isinstance(data, Iterator) else data,
        config=config,
        n_active=n_active,
        progress=progress,
    )
    if kind == "token identity":
        task = replace(task, source=token_embedding(host))
    quantizer = _FITTERS[kind](task)
    quantizer.origin = host.origin(task.source, target, kind)
    quantizer.fit_config = config
    return quantizer.eval()


@torch.no_grad()
def clustering(task: Task) -> CrossLayerQuantizer:
    """A quantizer whose codes are clusters of source activations."""
    quantizer = task.quantizer()
    reading, n_codes = task.reading(quantizer), quantizer.config.n_codes
    z = reading.sample(sample_size(task.kind, n_codes, reading.n_tokens), "source")
    check_rows(z, n_codes)
    clusters = CLUSTERINGS[task.kind](z, n_codes, reading.generator)
    quantizer.codebook.initialize_(clusters)
    quantizer.codebook.measure_distance_(z, quantizer.codebook.nearest(z), decay=0.0)
    reading.finish()
    return quantizer


_FITTERS: dict[str, Callable[[Task], CrossLayerQuantizer]] = {
    **dict.fromkeys(CLUSTERINGS, clustering),
    "single-layer VQ-VAE": single_layer,
    "token identity": token_identity,
    "sparse autoencoder": strongest_feature,
    "transcoder": strongest_feature,
}
