"""The papers' experiments, small: their training runs, their results, their pages."""
