"""Another decoder for codes that stay what they are."""

from dataclasses import asdict
from pathlib import Path

import torch

from clvq_lens.config import DecoderMemory, DecoderName, FitConfig
from clvq_lens.data.documents import Data
from clvq_lens.data.store.stored_activations import StoredActivations
from clvq_lens.host.attachment import Attachment
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from clvq_lens.quantizer.decoders import TableDecoder
from clvq_lens.quantizer.encoders import sae_options
from clvq_lens.training.checkpoint import EVERY_S, Checkpoints, holds_checkpoints
from clvq_lens.training.fitting import Fit
from clvq_lens.training.history import History
from clvq_lens.training.kept_data import fit_identity


def with_decoder(
    like: Attachment,
    data: Data,
    config: FitConfig,
    decoder: DecoderName,
    *,
    memory: DecoderMemory,
    name: str,
    checkpoint: Path | None = None,
    progress: bool,
) -> Attachment:
    """The same codes with another decoder, as a second quantizer on the same model.

    Args:
        like: A fitted quantizer on its model; it stays as it is.
        data: The documents that it was fitted on; a table needs none of them.
        config: Options of the fit.
        decoder: Kind of the new decoder.
        memory: What a transformer decoder attends to; others see codes alone.
        name: Name of the second quantizer on the model.
        checkpoint: As for `fit_decoder`.
        progress: Whether to show progress bars.

    Raises:
        KeyboardInterrupt: If Ctrl-C ended the fit of the decoder early.
    """
    old = like.quantizer
    copy = CrossLayerQuantizer(
        old.config,
        old.d_source,
        old.d_target,
        causal=old.causal,
        codebook=type(old.codebook),
        sae=sae_options(old.encoder),
    ).to(old.device)
    copy.load_state_dict(old.state_dict())
    attachment = Attachment(like.host, copy, name, like.source, like.target)
    try:
        if decoder == "table":  # was recorded already
            options = old.config.replace(decoder="table", decoder_memory="codes")
            copy.fit_config = old.fit_config
            copy.replace_decoder_(options, torch.Generator(copy.device))
            if isinstance(copy.decoder, TableDecoder):
                copy.decoder.set_(copy.table)
        else:
            history = fit_decoder(
                attachment,
                data,
                config,
                decoder,
                memory=memory,
                checkpoint=checkpoint,
                progress=progress,
            )
            history.require_whole()
    except BaseException:
        attachment.detach()
        raise
    copy.eval()
    attachment.recognize_model()
    return attachment


def fit_decoder(
    attachment: Attachment,
    data: Data,
    config: FitConfig,
    decoder: DecoderName,
    *,
    memory: DecoderMemory,
    checkpoint: Path | None = None,
    progress: bool,
) -> History:
    """Trains a new decoder as `clvq_lens.Lens.fit` trains its own, on nearest codes.

    Args:
        attachment: A fitted quantizer on its model; encoder and codebook are not changed.
        data: Documents.
        config: Options of the fit.
        decoder: Kind of the new decoder; layers and widths are those in the quantizer's options.
        memory: What a transformer decoder attends to; others see codes alone.
        checkpoint: Folder for checkpoints, from which a fit on a store goes on if it was killed;
            a fit on other data begins again.
        progress: Whether to show progress bars.
    """
    quantizer = attachment.quantizer
    seen: DecoderMemory = memory if decoder == "transformer" else "codes"
    options = quantizer.config.replace(decoder=decoder, decoder_memory=seen)
    checkpoints = None
    if checkpoint is not None and isinstance(data, StoredActivations):
        identity = fit_identity(attachment, config) | {"decoder": asdict(options)}
        identity |= data.identity
        checkpoints = Checkpoints(
            checkpoint, identity, every_s=EVERY_S, resume=holds_checkpoints(checkpoint)
        )
    run = Fit(
        attachment,
        data,
        config,
        progress=progress,
        learns_codes=False,
        checkpoints=checkpoints,
    )
    quantizer.replace_decoder_(options, run.generator)
    try:
        history = run.run()
    finally:
        quantizer.eval()
    quantizer.fit_config = config.replace(n_tokens=history.n_tokens)
    return history
