"""The kinds of baselines."""

from typing import Literal, get_args

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
]
"""A way to give every token a code that a quantizer has to be better than."""

BASELINES: tuple[str, ...] = get_args(Baseline)


def check_kind(kind: str) -> None:
    """Raises `ConfigError` if no baseline has this name."""
    check_choice("The baseline", kind, BASELINES)
