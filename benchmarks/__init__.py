"""Speed, beside peers and physical limits, in the same run, as ratios."""
