"""The weights of SAEs and transcoders of other libraries, which are known by what they have.

None of these libraries is imported. SAELens has W_enc, W_dec and a cfg; dictionary_learning has an
encoder and a decoder, or matrices without a cfg; sparsify has an encoder, W_dec and a cfg.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clvq_lens.baselines.features import Output
from clvq_lens.errors import UnsupportedSAEError
from clvq_lens.quantizer.sae_encoder import Normalization, SAEEncoder

_TRANSCODERS = (
    "transcoder",
    "skip_transcoder",
    "jumprelu_transcoder",
    "jumprelu_skip_transcoder",
)
_ARCHITECTURES = ("standard", "gated", "topk", "jumprelu", *_TRANSCODERS)
_FOLD = {
    "expected_average_only_in": "sae.fold_activation_norm_scaling_factor(factor)",
    "covariance_whitening": "sae.fold_activation_whitening(mean, matrix, inverse)",
}


@dataclass(frozen=True, kw_only=True)
class SAEWeights:
    """An SAE or transcoder, whichever library it comes from.

    Attributes:
        encoder: How active its features are.
        output: What its decoder makes of active features; None: it has no decoder.
        reconstructs: Whether that output is the token that it reads: not of a transcoder, nor of
            an SAE that normalizes tokens first.
        restores: Whether its decoder undoes the normalization in the end.
        most_active: How many features its ``encode`` keeps of a token, where that is a number.
        hook_point: Where it reads, if it says so.
        centered: Whether it was trained where weights that write to the residual stream are
            centered, if it says so.
    """

    encoder: SAEEncoder
    output: Output | None
    reconstructs: bool = True
    restores: bool = False
    most_active: int | None = None
    hook_point: str | None = None
    centered: bool | None = None

    def output_of(self, features: Int[Tensor, " n"], device: torch.device) -> Output | None:
        """What some of the features make of the tokens that it reads; None if of another place.

        Args:
            features: Their numbers.
            device: Where to put it.
        """
        if self.output is None or not self.reconstructs:
            return None
        directions = self.output.directions[features.to(self.output.directions.device)]
        return Output(self.output.bias.to(device), directions.to(device))


def sae_weights(sae: Any) -> SAEWeights:
    """Reads an SAE or transcoder of SAELens, dictionary_learning or sparsify.

    Raises:
        UnsupportedSAEError: If it is of no kind that is known, or has an option that is not.
    """
    for has, read in _READERS:
        if has(sae):
            with torch.no_grad():
                return read(sae)
    _refuse(
        f"{type(sae).__name__} has no weights that are known",
        "Pass an SAE or transcoder of SAELens, dictionary_learning or sparsify, such as "
        "sae_lens.SAE.from_pretrained(release, sae_id).",
    )


def _refuse(fact: str, remedy: str) -> NoReturn:
    raise UnsupportedSAEError(f"{fact}, so its features cannot become codes. {remedy}")


def _values(weights: Tensor) -> Tensor:
    return weights.detach().float().clone()


def _encoder(
    weights: Float[Tensor, "k d"],
    bias: Float[Tensor, " k"],
    center: Float[Tensor, " d"] | None = None,
    threshold: Tensor | None = None,
    *,
    normalization: Normalization = "none",
) -> SAEEncoder:
    """The encoder with these parts, of which some have a default."""
    weights, bias = _values(weights), _values(bias)
    center = torch.zeros_like(weights[0]) if center is None else _values(center)
    threshold = torch.zeros_like(bias) if threshold is None else _values(threshold)
    # What lies below 0 is cut off in any case; and one threshold may be that of all features.
    threshold = threshold.clamp_min(0).expand_as(bias).clone()
    return SAEEncoder(
        weights=weights, bias=bias, threshold=threshold, center=center, normalization=normalization
    )


def _gated(
    weights: Float[Tensor, "k d"],
    gate_bias: Float[Tensor, " k"],
    magnitude_bias: Float[Tensor, " k"],
    log_scale: Float[Tensor, " k"],
    center: Float[Tensor, " d"] | None,
    *,
    normalization: Normalization = "none",
) -> SAEEncoder:
    """The encoder of a gated SAE, whose gate and magnitude differ by a scale and a bias."""
    scale, gate_bias, magnitude_bias = log_scale.exp(), _values(gate_bias), _values(magnitude_bias)
    # With a the product of weights and token, the gate is a + gate bias and the magnitude scale * a
    # + magnitude bias. So the gate is open where the magnitude is above this:
    threshold = magnitude_bias - scale * gate_bias
    scaled = _values(weights) * scale.unsqueeze(1)
    return _encoder(scaled, magnitude_bias, center, threshold, normalization=normalization)


# ---- SAELens -------------------------------------------------------------------------------------


def _is_sae_lens(sae: Any) -> bool:
    return _has(sae, "W_enc", "W_dec", "b_dec", "cfg")


def _sae_lens(sae: Any) -> SAEWeights:
    architecture: Any = sae.cfg.architecture
    if callable(architecture):  # since SAELens 6
        architecture = architecture()
    _check_sae_lens(sae.cfg, architecture)
    is_transcoder = architecture in _TRANSCODERS
    normalization = _normalization(sae.cfg)
    # A transcoder's b_dec belongs to its output, which is another place.
    uses_b_dec = not is_transcoder and sae.cfg.apply_b_dec_to_input
    center = sae.b_dec if uses_b_dec else None
    directions = _values(sae.W_dec)
    if architecture == "gated":
        biases = sae.b_gate, sae.b_mag, sae.r_mag
        encoder = _gated(sae.W_enc.T, *biases, center, normalization=normalization)
    else:
        weights, bias = _values(sae.W_enc).T, _values(sae.b_enc)
        threshold = sae.threshold if architecture.startswith("jumprelu") else None
        if getattr(sae.cfg, "rescale_acts_by_decoder_norm", False):
            norms = directions.norm(dim=1)
            weights, bias = weights * norms.unsqueeze(1), bias * norms
            directions = directions / norms.unsqueeze(1)
        encoder = _encoder(weights, bias, center, threshold, normalization=normalization)
    normalizes = normalization != "none"
    return SAEWeights(
        encoder=encoder,
        output=Output(_values(sae.b_dec), directions),
        reconstructs=not is_transcoder and not normalizes,
        restores=not is_transcoder and normalizes,
        most_active=_most_active(sae.cfg, architecture),
        hook_point=_metadata(sae.cfg, "hook_name"),
        centered=(_metadata(sae.cfg, "model_from_pretrained_kwargs") or {}).get(
            "center_writing_weights"
        ),
    )


def _most_active(cfg: Any, architecture: object) -> int | None:
    """How many features a top-k SAE keeps of a token; None of others."""
    if architecture == "topk":
        return getattr(cfg, "k", None)
    if getattr(cfg, "activation_fn_str", None) == "topk":  # before SAELens 6
        return (getattr(cfg, "activation_fn_kwargs", None) or {}).get("k")
    return None


def _check_sae_lens(cfg: Any, architecture: object) -> None:
    """Raises `UnsupportedSAEError` for options that change which feature is strongest."""
    if architecture not in _ARCHITECTURES:
        _refuse(
            f"The SAE has the architecture {architecture!r}",
            f"Known are {', '.join(_ARCHITECTURES)}. An SAE that is being trained as batchtopk can "
            f"be saved, and loaded as jumprelu.",
        )
    activation = getattr(cfg, "activation_fn_str", "relu")  # before SAELens 6
    if activation not in ("relu", "topk"):
        _refuse(f"The SAE has the activation function {activation!r}", "Pass one with ReLU.")
    if getattr(cfg, "finetuning_scaling_factor", False):
        _refuse("The SAE has a fine-tuned scaling factor", "Pass one without it.")
    if getattr(cfg, "reshape_activations", "none") != "none":
        _refuse(
            f"The SAE reshapes activations ({cfg.reshape_activations})",
            "Pass one of a hook point that has one vector for each token.",
        )


def _normalization(cfg: Any) -> Normalization:
    """How it normalizes tokens; raises `UnsupportedSAEError` where not every token is by itself."""
    name: Any = getattr(cfg, "normalize_activations", "none")
    if name in get_args(Normalization):
        return name
    remedy = "Pass one that normalizes by layer_norm, constant_norm_rescale or none."
    if name in _FOLD:
        remedy = f"Fold it into the weights first: {_FOLD[name]}."
    _refuse(f"The SAE expects normalized activations ({name})", remedy)


def _metadata(cfg: Any, name: str) -> Any:
    """What the config says of the model, which moved to ``cfg.metadata`` in SAELens 6."""
    return getattr(getattr(cfg, "metadata", cfg), name, None)


# ---- dictionary_learning -------------------------------------------------------------------------


def _is_dictionary_of_matrices(sae: Any) -> bool:
    return _has(sae, "W_enc", "b_enc", "W_dec", "b_dec", "threshold")


def _dictionary_of_matrices(sae: Any) -> SAEWeights:
    """`JumpReluAutoEncoder` and `MatryoshkaBatchTopKSAE`."""
    groups = getattr(sae, "group_sizes", None)
    if groups is not None and sae.active_groups < len(groups):
        _refuse(
            f"Only {sae.active_groups} of the {len(groups)} groups of this SAE are active",
            "Set sae.active_groups to the number of groups.",
        )
    # The one with groups always subtracts the bias, and has no option for it.
    center = sae.b_dec if getattr(sae, "apply_b_dec_to_input", groups is not None) else None
    return SAEWeights(
        encoder=_encoder(sae.W_enc.T, sae.b_enc, center, sae.threshold),
        output=Output(_values(sae.b_dec), _values(sae.W_dec)),
    )


def _is_dictionary(sae: Any) -> bool:
    return _has(sae, "encoder", "decoder") and _has(sae.encoder, "weight")


def _dictionary(sae: Any) -> SAEWeights:
    """`AutoEncoder`, `AutoEncoderNew`, `GatedAutoEncoder`, `AutoEncoderTopK`, `BatchTopKSAE`."""
    weights, directions = sae.encoder.weight, _values(sae.decoder.weight).T
    if _has(sae, "r_mag", "gate_bias", "mag_bias", "decoder_bias"):
        bias = sae.decoder_bias
        encoder = _gated(weights, sae.gate_bias, sae.mag_bias, sae.r_mag, bias)
        return SAEWeights(encoder=encoder, output=Output(_values(bias), directions))
    center = next((getattr(sae, name) for name in ("bias", "b_dec") if _has(sae, name)), None)
    uses_threshold = _uses_threshold(sae)
    threshold = sae.threshold if uses_threshold else None
    bias = sae.decoder.bias if center is None else center
    return SAEWeights(
        encoder=_encoder(weights, sae.encoder.bias, center, threshold),
        output=Output(_values(bias), directions),
        most_active=int(sae.k) if _has(sae, "k") and not uses_threshold else None,
    )


def _uses_threshold(sae: Any) -> bool:
    """Whether its own ``encode`` uses the threshold that it has, unless told otherwise."""
    # Top-k and batch top-k have the same weights, and differ in this default.
    if not _has(sae, "threshold"):
        return False
    argument = inspect.signature(sae.encode).parameters.get("use_threshold")
    return argument is not None and argument.default is True


# ---- sparsify ------------------------------------------------------------------------------------


def _is_sparsify(sae: Any) -> bool:
    # Loaded with decoder=False, its W_dec is None.
    known = _has(sae, "encoder", "b_dec", "cfg") and hasattr(sae, "W_dec")
    return known and hasattr(sae.cfg, "transcode")


def _sparsify(sae: Any) -> SAEWeights:
    center = None if sae.cfg.transcode else sae.b_dec
    output = None if sae.W_dec is None else Output(_values(sae.b_dec), _values(sae.W_dec))
    return SAEWeights(
        encoder=_encoder(sae.encoder.weight, sae.encoder.bias, center),
        output=output,
        reconstructs=not sae.cfg.transcode,
        most_active=sae.cfg.k,
    )


def _has(sae: Any, *names: str) -> bool:
    return all(getattr(sae, name, None) is not None for name in names)


_READERS: tuple[tuple[Callable[[Any], bool], Callable[[Any], SAEWeights]], ...] = (
    (_is_sae_lens, _sae_lens),
    (_is_dictionary_of_matrices, _dictionary_of_matrices),
    (_is_sparsify, _sparsify),
    (_is_dictionary, _dictionary),
)
"""How each kind is recognized, and read."""
