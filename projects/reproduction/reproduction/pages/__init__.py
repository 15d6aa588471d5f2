"""The Markdown that is generated from the papers' tables and from `results/`."""
