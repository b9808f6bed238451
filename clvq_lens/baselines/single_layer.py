"""Single-layer VQ-VAE: codes learned from the source alone."""

import torch

from clvq_lens.baselines.task import Task
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from clvq_lens.training.fit import fit


def single_layer(task: Task) -> CrossLayerQuantizer:
    """A quantizer with the encoder and codebook of one that was fitted to reconstruct its source.

    That one has the options of the cross-layer quantizer, and is fitted in the same way.
    """
    like = task.like
    config = like.config
    if like.d_source != like.d_target:  # its numbers were derived from the target's width
        config = config.replace(decoder_heads=None, d_decoder_mlp=None)
    alone = CrossLayerQuantizer(config, like.d_source, like.d_source, causal=like.causal)
    alone.to(like.device)
    fit(task.host, alone, task.source, task.source, task.data, task.config, task.progress)
    quantizer = task.quantizer()
    with torch.no_grad():
        quantizer.encoder.load_state_dict(alone.encoder.state_dict())
        quantizer.codebook.load_state_dict(alone.codebook.state_dict())
    task.reading(quantizer).finish()
    return quantizer
