"""Checkpoints: saved whole, loaded without running code, converted between class sets."""
