"""Checkpoints: saving, safe loading, torchvision's weights, conversion to other classes."""
