"""The data, models and grids behind the tables of the paper, measured anew."""

from clvq_lens.config import EncoderName

ENCODERS: tuple[EncoderName, ...] = ("predictive", "residual")
"""Ours, the default first."""

CLOSE = ("k-means", "spherical k-means", "balanced k-means")
"""Clusterings of the source, which the default should beat."""
