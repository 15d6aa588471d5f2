"""Training and evaluation: the trainer, its hooks, and the start of a run."""
