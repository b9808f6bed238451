"""What a fit with checkpoints reads: activations that are kept on disk, and who they belong to."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from clvq_lens.config import MOST_TOKENS, FitConfig
from clvq_lens.data.documents import Data
from clvq_lens.data.store.cache import cache_activations
from clvq_lens.data.store.stored_activations import StoredActivations
from clvq_lens.host.attachment import Attachment
from clvq_lens.processes import Processes
from clvq_lens.training.memory import initial_tokens

_MARGIN = 1.05  # the part that is held out is a share of documents, and not of tokens


def kept_data(
    attachment: Attachment, data: Data, config: FitConfig, folder: Path, *, progress: bool
) -> StoredActivations:
    """Activations that were read before: those of the user, or a store beside the checkpoints.

    Args:
        attachment: Where to read.
        data: A store, or documents.
        config: How many tokens the fit reads.
        folder: Folder of the checkpoints.
        progress: Whether to show a progress bar.

    Raises:
        KeyboardInterrupt: On Ctrl-C; what was read by then is kept.
    """
    if isinstance(data, StoredActivations):
        return data
    # The same in all processes, whose machines may have more memory or less.
    n_initial = Processes.current().least(initial_tokens(attachment.quantizer))
    n_tokens = max(config.n_tokens or MOST_TOKENS, n_initial)
    store = cache_activations(
        attachment.host.model,
        data,
        folder / "activations",
        points=list(dict.fromkeys([attachment.source, attachment.target])),
        n_tokens=math.ceil(_MARGIN * n_tokens / (1 - config.held_out_fraction)),
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
        "quantizer": asdict(attachment.quantizer.config),
        "fit": asdict(config),
        "source": attachment.source,
        "target": attachment.target,
    }
