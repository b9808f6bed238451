"""What a fit needs in memory, known before it starts."""

import logging
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from clvq_lens.config import CLVQConfig, FitConfig
from clvq_lens.data.stream import BESIDE_BYTES, SHARE_OF_MEMORY, memory_bytes
from clvq_lens.errors import ConfigError
from clvq_lens.host.attachment import Attachment
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from clvq_lens.quantizer.decoders import MLPDecoder, TransformerDecoder, resolve
from clvq_lens.quantizer.encoders import make_encoder
from clvq_lens.showing import Shown, bytes_in_words

HELD_OUT_TOKENS = 2**15
"""Tokens to validate on: enough for an FVU to the third digit, and little to keep in memory."""

_log = logging.getLogger(__name__)
_INIT_TOKENS_PER_CODE, _FEWEST_PER_CODE = 128, 8
_FLOAT = 4  # bytes; the quantizer computes in float32
_MEMINFO = Path("/proc/meminfo")
# A fit is refused if it needs so many times what is free: what is free is not known exactly.
_MARGIN = 1.1


@dataclass(frozen=True, kw_only=True, repr=False)
class FitMemory(Shown):
    """Bytes that a fit needs on the device of the quantizer.

    Activations of a single step, and the model itself, are not among them.

    Attributes:
        n_encoder_parameters: Parameters of the encoder.
        n_decoder_parameters: Parameters of the decoder.
        weights_bytes: Encoder and decoder.
        codebook_bytes: Code vectors, their running sums, and what is recorded of every code.
        copies_bytes: Weights and codebook as they were before the fit, the best so far, and the
            next best while it is copied.
        gradients_bytes: Gradients of all that is trained with the codebook.
        moments_bytes: The two running means that Adam has of each of these.
        encoder_training_bytes: Gradients, moments and best weights of a predictive encoder, which
            is trained before there is a codebook.
        held_out_bytes: Activations of held-out tokens, at most.
        buffer_bytes: The shuffle buffer while it is filled, at most.
        sample_bytes: The sample that starts the codebook, and what is computed from it at once.
    """

    n_encoder_parameters: int
    n_decoder_parameters: int
    weights_bytes: int
    codebook_bytes: int
    copies_bytes: int
    gradients_bytes: int
    moments_bytes: int
    encoder_training_bytes: int
    held_out_bytes: int
    buffer_bytes: int
    sample_bytes: int

    @property
    def start_bytes(self) -> int:
        """Bytes until the codebook is started."""
        quantizer = self.weights_bytes + self.codebook_bytes
        data = self.held_out_bytes + self.buffer_bytes + self.sample_bytes
        return 2 * quantizer + self.encoder_training_bytes + data  # it is copied before the fit

    @property
    def training_bytes(self) -> int:
        """Bytes while codebook and decoder are trained."""
        quantizer = self.weights_bytes + self.codebook_bytes
        learning = self.gradients_bytes + self.moments_bytes + self.copies_bytes
        return quantizer + learning + self.held_out_bytes + self.buffer_bytes

    @property
    def peak_bytes(self) -> int:
        """Bytes that are needed at the same time, at most."""
        return max(self.start_bytes, self.training_bytes)

    @property
    def least_bytes(self) -> int:
        """Bytes that are needed at the same time whatever the data are, beside the quantizer."""
        one_copy = self.weights_bytes + self.codebook_bytes
        to_start = one_copy + self.encoder_training_bytes
        # The third copy is made only if a second validation is better than the first.
        return max(to_start, self.gradients_bytes + self.moments_bytes + 2 * one_copy)

    def headline(self) -> str:
        """Parameters, and bytes at the peak."""
        n_parameters = self.n_encoder_parameters + self.n_decoder_parameters
        return f"{n_parameters:,} parameters, {bytes_in_words(self.peak_bytes)} at the peak"

    def preview(self) -> pd.DataFrame:
        """All parts."""
        return self.frame()

    def frame(self) -> pd.DataFrame:
        """One row for each part, and two for the sums at the start and in training."""
        names = ("weights", "codebook", "copies", "gradients", "moments", "encoder_training")
        names += ("held_out", "buffer", "sample", "start", "training")
        rows = [{"part": name, "bytes": getattr(self, f"{name}_bytes")} for name in names]
        return pd.DataFrame(rows)


def fit_memory(
    config: CLVQConfig,
    d_source: int,
    d_target: int,
    fit_config: FitConfig,
    *,
    dtype: torch.dtype,
    device_bytes: int,
    n_tokens: int | None = None,
) -> FitMemory:
    """What a fit needs in memory.

    Args:
        config: Options of the quantizer.
        d_source: Width at the source.
        d_target: Width at the target.
        fit_config: Options of the fit.
        dtype: Dtype of the model, in which the buffer holds activations.
        device_bytes: Memory of the device; buffer and sample take a part of it at most.
        n_tokens: Tokens of the data; None: so many that they limit nothing.
    """
    encoder, decoder = _modules(config, d_source, d_target)
    n_encoder, n_decoder = _n_parameters(encoder), _n_parameters(decoder)
    is_predictive = config.encoder == "predictive"
    # A table is no parameter, and without a learned decoder there is nothing to train.
    n_trained = n_decoder + (0 if is_predictive or decoder is None else n_encoder)
    weights = _n_bytes(encoder) + _n_bytes(decoder)
    if config.decoder == "table":
        weights += _FLOAT * config.n_codes * d_target
    codebook = _codebook_bytes(config, d_source, d_target)
    width = d_source + d_target
    most_data = SHARE_OF_MEMORY * device_bytes
    n_held_out = HELD_OUT_TOKENS if fit_config.held_out_fraction else 0
    n_sample = sample_tokens(config.n_codes, width, device_bytes)
    n_buffer = fit_config.buffer_tokens
    if n_tokens is not None:
        n_held_out = min(n_held_out, round(fit_config.held_out_fraction * n_tokens))
        n_sample, n_buffer = min(n_sample, n_tokens), min(n_buffer, n_tokens)
    buffer = min(n_buffer * (width * dtype.itemsize + BESIDE_BYTES), most_data)
    return FitMemory(
        n_encoder_parameters=n_encoder,
        n_decoder_parameters=n_decoder,
        weights_bytes=weights,
        codebook_bytes=codebook,
        copies_bytes=3 * (weights + codebook),
        gradients_bytes=_FLOAT * n_trained,
        moments_bytes=2 * _FLOAT * n_trained,
        encoder_training_bytes=4 * _FLOAT * n_encoder * is_predictive,
        held_out_bytes=_FLOAT * n_held_out * width * (1 + is_predictive),
        buffer_bytes=round(2 * buffer),
        sample_bytes=3 * _FLOAT * n_sample * width,
    )


def initial_tokens(quantizer: CrossLayerQuantizer) -> int:
    """Tokens that are read to start a codebook; half of them are used.

    The half that is used takes at most a sixteenth of the memory of its device, unless these are
    fewer than a few tokens a code.
    """
    width = quantizer.d_source + quantizer.d_target
    return 2 * sample_tokens(quantizer.config.n_codes, width, memory_bytes(quantizer.device))


def sample_tokens(n_codes: int, width: int, device_bytes: int) -> int:
    """Tokens of the sample that starts a codebook.

    Args:
        n_codes: Size of the codebook.
        width: Width of source and target together.
        device_bytes: Memory of the device.
    """
    most = int(SHARE_OF_MEMORY * device_bytes / (_FLOAT * width))
    return min(_INIT_TOKENS_PER_CODE * n_codes, max(_FEWEST_PER_CODE * n_codes, most))


def require_memory(attachment: Attachment, fit_config: FitConfig) -> None:
    """Logs what a fit needs in memory, and refuses one that cannot fit.

    Args:
        attachment: The quantizer on its model.
        fit_config: Options of the fit.

    Raises:
        ConfigError: If what is learned needs more than 1.1 times the memory that the device has
            left, whatever the data.
    """
    quantizer, device = attachment.quantizer, attachment.quantizer.device

    def needed(config: CLVQConfig) -> FitMemory:
        return fit_memory(
            config,
            quantizer.d_source,
            quantizer.d_target,
            fit_config,
            dtype=attachment.host.dtype,
            device_bytes=memory_bytes(device),
        )

    memory, free_bytes = needed(quantizer.config), free_memory_bytes(device)
    _log.info(
        "A quantizer of %s parameters needs up to %s on %s while it is fitted, beside the model "
        "and the activations of a step; %s are free.",
        f"{memory.n_encoder_parameters + memory.n_decoder_parameters:,}",
        *(bytes_in_words(memory.peak_bytes), device, bytes_in_words(free_bytes)),
    )
    if memory.least_bytes <= _MARGIN * free_bytes:
        return
    remedy = "Attach one with fewer codes or a smaller encoder (d_encoder_mlp=, encoder_layers=)."
    for words, smaller in _smaller(quantizer.config, fit_config):
        if needed(smaller).least_bytes <= free_bytes:
            remedy = f"Attach one with {words}, which fits."
            break
    raise ConfigError(
        f"Fitting a decoder of {memory.n_decoder_parameters:,} parameters and an encoder of "
        f"{memory.n_encoder_parameters:,} needs at least {bytes_in_words(memory.least_bytes)} more "
        f"on {device}, which has {bytes_in_words(free_bytes)} left. {remedy}"
    )


def free_memory_bytes(device: torch.device) -> int:
    """The memory of a device that can still be used; all of it if the system does not tell."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # torch keeps freed memory to use it again.
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type == "cpu" and _MEMINFO.is_file():
        lines = (line.split() for line in _MEMINFO.read_text().splitlines())
        kib = {words[0]: int(words[1]) for words in lines}
        # Swap counts: it is slow, but a fit that needs some of it works.
        return 1024 * (kib.get("MemAvailable:", kib["MemTotal:"]) + kib.get("SwapFree:", 0))
    return memory_bytes(device)


def process_bytes(process: int | str = "self") -> int:
    """Memory that a process takes now, files that are mapped into it not counted; 0 if unknown.

    The interpreter, the libraries and a model on the CPU are in it.

    Args:
        process: Its number; "self": this one.
    """
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:  # another system, or it has ended
        return 0
    for line in status.splitlines():
        if line.startswith("RssAnon:"):
            return 1024 * int(line.split()[1])
    return 0


def _smaller(config: CLVQConfig, fit_config: FitConfig) -> list[tuple[str, CLVQConfig]]:
    """Smaller decoders, the largest first, and the options that make them."""
    smaller: list[tuple[str, CLVQConfig]] = []
    if config.decoder != "table":
        for n_layers in range(config.decoder_layers - 1, 0, -1):
            words = f"decoder_layers={n_layers}"
            smaller.append((words, config.replace(decoder_layers=n_layers)))
    if config.decoder == "transformer":
        options = {"decoder": "mlp", "decoder_layers": 1, "decoder_memory": "codes"}
        smaller.append(("decoder='mlp', decoder_layers=1", config.replace(**options)))
    if config.decoder != "table" and fit_config.kl_weight == 0:
        options = {"decoder": "table", "decoder_memory": "codes"}
        smaller.append(("decoder='table'", config.replace(**options)))
    return smaller


def _modules(
    config: CLVQConfig, d_source: int, d_target: int
) -> tuple[nn.Module, nn.Module | None]:
    """Encoder and decoder without any memory for weights; None for a table."""
    config = resolve(config, d_source, d_target)
    d_code = config.d_code(d_source, d_target)
    with torch.device("meta"):
        encoder = make_encoder(config, d_source, d_target)
        if config.decoder == "transformer":
            return encoder, TransformerDecoder(config, d_code, d_target, causal=True)
        if config.decoder == "mlp":
            return encoder, MLPDecoder(config, d_code, d_target)
    return encoder, None


def _codebook_bytes(config: CLVQConfig, d_source: int, d_target: int) -> int:
    """What a quantizer holds of each code."""
    k, d_code = config.n_codes, config.d_code(d_source, d_target)
    vectors = 3 * d_code + d_target  # code vector, running sum, mean encoder output, mean target
    if config.encoder == "predictive":
        vectors += d_source
    counts = 8 + 8 + _FLOAT  # usage, tokens since use, running size
    return k * (_FLOAT * vectors + counts) + _FLOAT * d_source


def _n_parameters(module: nn.Module | None) -> int:
    if module is None:
        return 0
    return sum(parameter.numel() for parameter in module.parameters())


def _n_bytes(module: nn.Module | None) -> int:
    if module is None:
        return 0
    return sum(tensor.nbytes for tensor in module.state_dict().values())
