"""Plotly figures from plain arrays and tables."""
