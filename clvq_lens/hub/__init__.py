"""Quantizers on the Hugging Face Hub: the only room that speaks to a network of its own accord."""
