"""The only folder that knows the names of TransformerLens: attaching to a model and running it."""
