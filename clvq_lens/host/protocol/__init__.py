"""What differs between the model classes of TransformerLens, and nothing else of the library."""
