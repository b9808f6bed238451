"""The work of a fit in tokens, operations and bytes, and its time on GPUs of some kind."""

from dataclasses import dataclass

import torch

from clvq_lens.config import CLVQConfig, FitConfig
from clvq_lens.planning.gpus import GPU
from clvq_lens.planning.model_shape import ModelShape
from clvq_lens.training.memory import HELD_OUT_TOKENS, FitMemory, fit_memory, sample_tokens

# Shares of what a data sheet promises that such work is seen to reach: large products of a model
# that reads, and small products of one that trains. Assumed, and stated in every plan.
_READING_UTILIZATION, _TRAINING_UTILIZATION = 0.3, 0.2
_DISK_BYTES_PER_S = 2e9  # of a fast disk, that activations are written to
_STEP_S = 4e-3  # a step cannot be faster: some hundred kernels are started
_KMEANS_PASSES = 50  # of all centroids over the sample
_MASK_BYTES = 5  # of a position on disk: its token and whether it is real


@dataclass(frozen=True, kw_only=True)
class Work:
    """What has to be done.

    Attributes:
        shape: The model.
        n_blocks: Blocks that are computed.
        d_source: Width at the source.
        d_target: Width at the target.
        config: Options of the quantizer.
        fit: Options of the fit.
        data_tokens: Tokens of the data, each of which the model reads once.
        context: Tokens of a text.
        device_bytes: Memory of the device, or of one of them.
    """

    shape: ModelShape
    n_blocks: int
    d_source: int
    d_target: int
    config: CLVQConfig
    fit: FitConfig
    data_tokens: int
    context: int
    device_bytes: int

    @property
    def n_training(self) -> int:
        """Tokens to train on, repetitions counted."""
        return self.fit.tokens_for(round(self.data_tokens * (1 - self.fit.held_out_fraction)))

    @property
    def is_predictive(self) -> bool:
        """Whether there is an encoder to train first."""
        return self.config.encoder == "predictive"

    @property
    def disk_bytes(self) -> int:
        """Size of the activations at both points."""
        width = (self.d_source + self.d_target) * self.shape.dtype.itemsize
        return self.data_tokens * (width + _MASK_BYTES)

    def tokens_of(self, phase: str) -> int:
        """Tokens that a phase goes through."""
        if phase == "read the model":
            return self.data_tokens
        if phase == "start":
            width = self.d_source + self.d_target
            n_sample = sample_tokens(self.config.n_codes, width, self.device_bytes)
            return min(n_sample, self.data_tokens)
        if phase == "validation":
            n_held_out = min(HELD_OUT_TOKENS, self.fit.held_out_fraction * self.data_tokens)
            return round(n_held_out * self.fit.n_evaluations * (1 + self.is_predictive))
        if phase == "frozen pass":
            return min(self.n_training, self.data_tokens)
        return self.n_training

    @property
    def memory(self) -> FitMemory:
        """What a fit needs in memory, part by part."""
        return fit_memory(
            self.config,
            self.d_source,
            self.d_target,
            self.fit,
            dtype=self.shape.dtype,
            device_bytes=self.device_bytes,
            n_tokens=self.data_tokens,
        )

    @property
    def fit_bytes(self) -> int:
        """Memory of a fit from a store, whose files are mapped and take no memory of its own."""
        memory = self.memory
        return memory.peak_bytes - memory.buffer_bytes


def seconds_on(gpu: GPU, n_gpus: int, work: Work) -> tuple[dict[str, float], str]:
    """Seconds of every phase on GPUs of some kind, and how they are known.

    Args:
        gpu: The kind.
        n_gpus: How many share the work.
        work: What has to be done.
    """
    memory, shape = work.memory, work.shape
    d_code = work.d_target if work.is_predictive else work.d_source
    distances = 2 * work.config.n_codes * d_code
    encode, decode = 2 * memory.n_encoder_parameters, 2 * memory.n_decoder_parameters
    reading = gpu.flops(shape.dtype.itemsize) * _READING_UTILIZATION * n_gpus
    training = gpu.flops(torch.float32.itemsize) * _TRAINING_UTILIZATION * n_gpus
    above = 0.0  # a pass through what lies above the target, which only the KL needs
    if work.fit.kl_weight > 0:
        above = shape.flops(shape.n_layers - work.n_blocks, work.context) + shape.head_flops
    a_step = _STEP_S / work.fit.batch_tokens  # a token of a batch takes its part of a step
    n_start = work.tokens_of("start")
    # Every process starts the codebook by itself, and all from the same sample.
    start = n_start * (encode + _KMEANS_PASSES * distances) * n_gpus / training
    a_token = {
        "read the model": max(
            shape.flops(work.n_blocks, work.context) / reading,
            work.disk_bytes / work.data_tokens / _DISK_BYTES_PER_S,
        ),
        "encoder": max(3 * encode / training, 2 * a_step),
        # The KL: clean, spliced, once more for the gradient, and the gradient.
        "fit": max((encode + distances + 3 * decode) / training + 4 * above / reading, a_step),
        "validation": (encode + distances + decode) / training + 2 * above / reading,
        "frozen pass": (encode + distances) / training,
    }
    seconds = {"read the model": 0.0, "start": start}
    for phase, of_a_token in a_token.items():
        if phase != "encoder" or work.is_predictive:
            seconds[phase] = of_a_token * work.tokens_of(phase)
    basis = (
        f"By formula: the model reads at {_READING_UTILIZATION:.0%} and a fit trains at "
        f"{_TRAINING_UTILIZATION:.0%} of what the data sheet promises for their dtype (a fit: "
        f"float32), with at least {1000 * _STEP_S:.0f} ms a step and a disk of "
        f"{_DISK_BYTES_PER_S / 1e9:.0f} GB/s."
    )
    return seconds, basis
