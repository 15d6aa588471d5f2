"""Slow, literal versions of what the package computes, to test it against."""
