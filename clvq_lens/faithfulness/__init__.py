"""Does what texts are about depend on their concepts? Salience, probes, ablations and controls."""
