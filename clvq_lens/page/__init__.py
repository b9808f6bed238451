"""The report: one self-contained page that opens from disk without a network."""
