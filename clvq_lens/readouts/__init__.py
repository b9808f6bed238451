"""What a model says about whole texts, and which token decides it."""
