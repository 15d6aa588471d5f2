"""Prediction on images: one, many, or files that a user names."""
