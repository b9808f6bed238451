"""Other ways to give every token a code, matched to a quantizer."""
