"""Causal experiments: edits of codes in the running model, sweeps over them, attribution."""
