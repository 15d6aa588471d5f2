"""Checkpoints: saving, safe loading, weights of other libraries, conversion to other classes."""
