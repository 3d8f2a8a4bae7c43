"""Negative controls: known-wrong kernels and engines, run through every gate; what no gate rejects is a survivor."""
