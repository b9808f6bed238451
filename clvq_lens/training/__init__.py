"""Streams activations from a model and fits a quantizer on them."""
