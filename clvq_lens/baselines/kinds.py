"""The kinds of baselines."""

from typing import Literal, cast, get_args

from clvq_lens.arguments import check_choice

Baseline = Literal[
    "k-means",
    "spherical k-means",
    "balanced k-means",
    "agglomerative",
    "random codes",
    "single-layer VQ-VAE",
    "token identity",
    "sparse autoencoder",
    "transcoder",
    "random sparse autoencoder",
    "random transcoder",
    "k-means of the target",
]
"""A way to give every token a code that a quantizer has to be better than."""

BASELINES: tuple[str, ...] = get_args(Baseline)


def check_kind(kind: str) -> Baseline:
    """The kind itself; raises `ConfigError` if no baseline has this name."""
    check_choice("The baseline", kind, BASELINES)
    return cast("Baseline", kind)
