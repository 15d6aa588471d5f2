"""Masks of overlapping instances, measured: pure functions on arrays and RLE."""
