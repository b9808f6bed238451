"""An SAE's own encode and decode, held against what its weights say."""

from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor

from clvq_lens.errors import UnsupportedSAEError
from clvq_lens.quantizer.sae_codebook import SAECodebook
from clvq_lens.quantizer.sae_encoder import normalized
from clvq_lens.quantizer.sae_prediction import SAEPrediction, Strongest

MOST_CHECKED = 256
"""Tokens at which the SAE's own features are looked at."""

_MOST_DIFFERENT = 0.02  # share of them where another feature may be the strongest, by rounding
_MOST_ERROR = 0.1  # share of squared activations, or of the variance of what the decoder gives


class _Encoded(NamedTuple):
    """What an SAE's own ``encode`` gives.

    Attributes:
        activations: Of all features.
        is_sparse: Whether it gave the largest alone, and their numbers; ``decode`` wants the same.
    """

    activations: Float[Tensor, "n k"]
    is_sparse: bool


def check_strongest(sae: Any, codebook: SAECodebook, z: Float[Tensor, "n d"]) -> None:
    """Raises `UnsupportedSAEError` unless the SAE itself says that these features are strongest.

    So no SAE that computes something else, in whatever version of its library, is taken for one
    that is known.
    """
    features = codebook.features.to(z.device)
    acts = _encoded(sae, z).activations[:, features]
    chosen = acts.gather(1, codebook.nearest(z).unsqueeze(1)).squeeze(1)
    strongest = acts.amax(1)
    # Of half-precision weights, two features that are nearly as strong may change places.
    differs = (chosen < 0.95 * strongest) & (strongest > 0)
    if differs.float().mean() > _MOST_DIFFERENT:
        raise UnsupportedSAEError(
            f"At {int(differs.sum())} of {len(z)} tokens, {type(sae).__name__}.encode has another "
            f"strongest feature than its weights say, so its features cannot become codes. Pass an "
            f"SAE whose encode is that of SAELens, dictionary_learning or sparsify."
        )


def check_sums(sae: Any, encoder: SAEPrediction, z: Float[Tensor, "n d"]) -> None:
    """Raises `UnsupportedSAEError` unless the SAE itself finds these features, and adds them so.

    Args:
        sae: The SAE.
        encoder: Holds its weights.
        z: Tokens that it reads.
    """
    encoded = _encoded(sae, z)
    own = Strongest(*encoded.activations.topk(encoder.options.n_active, dim=1))
    n_features = encoder.options.n_features
    theirs = _dense(own, n_features)
    # Where two features are nearly as strong, rounding decides; that is little of all activations.
    if _differs(_dense(encoder.strongest(z), n_features) - theirs, theirs):
        raise UnsupportedSAEError(
            f"{type(sae).__name__}.encode has other active features than its weights say, so they "
            f"cannot be added up. Pass an SAE whose encode is that of SAELens, dictionary_learning "
            f"or sparsify (there with activation='topk'), or leave n_active out."
        )
    # The SAE may remember from its encode how to undo its normalization.
    output = _decoded(sae, own, theirs, is_sparse=encoded.is_sparse)
    ours = encoder.decode(own, normalized(z, encoder.options.normalization))
    if _differs(ours - output, output - output.mean(0)):
        raise UnsupportedSAEError(
            f"{type(sae).__name__}.decode gives something else than its weights say. Pass an SAE "
            f"whose decode is that of SAELens, dictionary_learning or sparsify, or leave n_active "
            f"out."
        )


def _differs(error: Float[Tensor, "n d"], of: Float[Tensor, "n d"]) -> bool:
    return bool(error.square().sum() > _MOST_ERROR * of.square().sum())


def _dense(strongest: Strongest, n_features: int) -> Float[Tensor, "n k"]:
    empty = strongest.values.new_zeros(len(strongest.values), n_features)
    return empty.scatter(1, strongest.features, strongest.values)


def _encoded(sae: Any, z: Float[Tensor, "n d"]) -> _Encoded:
    weight = next(sae.parameters())
    encoded = sae.encode(z.to(weight.device, weight.dtype))
    if isinstance(encoded, Tensor):
        return _Encoded(encoded.to_dense().float().to(z.device), is_sparse=False)
    values, features = encoded[:2]  # of sparsify
    strongest = Strongest(values.float().to(z.device), features.to(z.device))
    return _Encoded(_dense(strongest, len(sae.encoder.weight)), is_sparse=True)


def _decoded(
    sae: Any, strongest: Strongest, dense: Float[Tensor, "n k"], *, is_sparse: bool
) -> Float[Tensor, "n d_output"]:
    weight = next(sae.parameters())
    if is_sparse:
        values = strongest.values.to(weight.device, weight.dtype)
        output = sae.decode(values, strongest.features.to(weight.device))
    else:
        output = sae.decode(dense.to(weight.device, weight.dtype))
    return output.float().to(dense.device)
