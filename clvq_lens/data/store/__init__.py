"""Activations on disk: shards, their index, and how they are filled and read."""
