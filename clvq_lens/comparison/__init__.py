"""Several quantizers and baselines side by side."""
