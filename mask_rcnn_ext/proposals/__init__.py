"""Stored object proposals: their files, how they are computed, and their recall."""
