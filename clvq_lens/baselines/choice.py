"""Baseline: the kinds that there are."""

from typing import Literal, get_args

from clvq_lens.config import closest
from clvq_lens.errors import ConfigError

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
    """Raises `ConfigError` if there is no such baseline."""
    if kind not in BASELINES:
        raise ConfigError(
            f"No baseline {kind!r}. {closest(str(kind), list(BASELINES))}"
            f"Baselines: {', '.join(BASELINES)}."
        )
