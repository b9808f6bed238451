"""What a fit will take in time, memory and disk."""
