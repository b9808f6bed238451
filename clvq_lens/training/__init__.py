"""Fits a quantizer on activations streamed from a model."""
