"""Pure functions on counts and arrays: each statistic of the library, once."""
