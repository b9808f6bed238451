"""Single-layer VQ-VAE: codes learned from the source alone."""

import torch

from clvq_lens.baselines.task import Task
from clvq_lens.host.attachment import Attachment
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from clvq_lens.training.fit import fit


def single_layer(task: Task) -> Attachment:
    """A quantizer whose encoder and codebook were learned by reconstructing the source.

    They come from a second quantizer, which has the options of the cross-layer one and is fitted in
    the same way.
    """
    like = task.like.quantizer
    # A prediction of the source from itself would be the source, and nothing would be learned.
    config = like.config.replace(encoder="residual")
    if like.d_source != like.d_target:  # heads and MLP were derived from the target's width
        config = config.replace(decoder_heads=None, d_decoder_mlp=None)
    learned = CrossLayerQuantizer(config, like.d_source, like.d_source, causal=like.causal)
    with task.alone(learned) as alone:
        fit(alone, task.data, task.config, progress=task.progress).require_whole()
    with task.attached() as attachment:
        quantizer = attachment.quantizer
        with torch.no_grad():
            quantizer.encoder.load_state_dict(learned.encoder.state_dict())
            quantizer.codebook.load_state_dict(learned.codebook.state_dict())
        task.reading(attachment).finish()
    return attachment
