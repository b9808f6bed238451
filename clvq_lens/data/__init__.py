"""What is read: documents, tokens, their labels, and activations streamed from a model."""
