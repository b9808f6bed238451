"""What a fit reads from disk: activations that are kept there, and who they belong to."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from clvq_lens.config import MOST_TOKENS, FitConfig
from clvq_lens.data.documents import Data
from clvq_lens.data.store.cache import cache_activations
from clvq_lens.data.store.stored_activations import StoredActivations
from clvq_lens.host.attachment import Attachment
from clvq_lens.quantizer.encoders import sae_fields


def kept_data(
    attachment: Attachment, data: Data, config: FitConfig, folder: Path, *, progress: bool
) -> StoredActivations:
    """Activations that were read before: those of the user, or a store that is filled now.

    Args:
        attachment: Where to read.
        data: A store, or documents.
        config: How many tokens the fit reads.
        folder: Folder in which the store is kept.
        progress: Whether to show a progress bar.

    Raises:
        KeyboardInterrupt: On Ctrl-C; what was read by then is kept.
    """
    if isinstance(data, StoredActivations):
        return data
    store = cache_activations(
        attachment.host.model,
        data,
        folder / "activations",
        points=list(dict.fromkeys([attachment.source, attachment.target])),
        n_tokens=math.ceil((config.n_tokens or MOST_TOKENS) / (1 - config.held_out_fraction)),
        long_texts=config.long_texts,
        seed=config.seed,
        progress=progress,
    )
    if not store.index.complete:
        raise KeyboardInterrupt
    return store


def fit_identity(attachment: Attachment, config: FitConfig) -> dict[str, Any]:
    """What has to be the same for a fit to go on, beside its data."""
    return {
        **sae_fields(attachment.quantizer.encoder),
        "quantizer": asdict(attachment.quantizer.config),
        "fit": asdict(config),
        "source": attachment.source,
        "target": attachment.target,
    }
