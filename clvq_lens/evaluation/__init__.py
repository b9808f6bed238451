"""How good a quantizer is, next to baselines and controls."""
