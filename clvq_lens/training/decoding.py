"""Another decoder for codes that stay what they are."""

from clvq_lens.config import DecoderMemory, DecoderName, FitConfig
from clvq_lens.data.documents import Data
from clvq_lens.host.attachment import Attachment
from clvq_lens.training.fit import Fit
from clvq_lens.training.history import History


def fit_decoder(
    attachment: Attachment,
    data: Data,
    config: FitConfig,
    decoder: DecoderName,
    *,
    memory: DecoderMemory,
    progress: bool,
) -> History:
    """Trains a new decoder as `clvq_lens.Lens.fit` trains its own, on nearest codes.

    Args:
        attachment: A fitted quantizer on its model; encoder and codebook are not changed.
        data: Documents.
        config: Options of the fit.
        decoder: Kind of the new decoder; layers and widths are those in the quantizer's options.
        memory: What a transformer decoder attends to; others see codes alone.
        progress: Whether to show progress bars.
    """
    quantizer = attachment.quantizer
    seen: DecoderMemory = memory if decoder == "transformer" else "codes"
    run = Fit(attachment, data, config, progress=progress, learns_codes=False)
    options = quantizer.config.replace(decoder=decoder, decoder_memory=seen)
    quantizer.replace_decoder_(options, run.generator)
    try:
        return run.run()
    finally:
        quantizer.eval()
