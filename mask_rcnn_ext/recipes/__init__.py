"""Trainings of several steps."""
