"""How concepts flow from layer to layer, observed and causal."""
