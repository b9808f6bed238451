"""The data, models and grids behind the tables of the paper, measured anew."""
