"""Another decoder for codes that stay what they are."""

import dataclasses
from typing import Any

from clvq_lens.config import CLVQConfig, FitConfig
from clvq_lens.data.documents import Data
from clvq_lens.host.attachment import Attachment
from clvq_lens.training.fit import Fit
from clvq_lens.training.history import History


def fit_decoder(
    attachment: Attachment,
    data: Data,
    config: FitConfig,
    like: CLVQConfig,
    *,
    progress: bool,
) -> History:
    """Trains a new decoder as `clvq_lens.Lens.fit` trains its own, on nearest codes.

    Args:
        attachment: A fitted quantizer on its model; encoder and codebook are not changed.
        data: Documents.
        config: Options of the fit.
        like: Its options of decoders; of the others nothing is taken.
        progress: Whether to show progress bars.
    """
    quantizer = attachment.quantizer
    run = Fit(attachment, data, config, progress=progress, learns_codes=False)
    options: dict[str, Any] = {}
    for field in dataclasses.fields(like):
        if "decoder" in field.name:
            options[field.name] = getattr(like, field.name)
    quantizer.replace_decoder_(quantizer.config.replace(**options), run.generator)
    run.learns = True
    try:
        return run.run()
    finally:
        quantizer.eval()
