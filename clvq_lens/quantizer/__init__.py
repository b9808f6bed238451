"""The quantizer between two layers: encoder, codebook, decoder. Torch only; knows no model."""
