"""Quantizers on the Hugging Face Hub: the only room that uses the network on its own."""
