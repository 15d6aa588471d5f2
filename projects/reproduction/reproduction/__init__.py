"""The papers' experiments with small models: training runs, results and pages."""
