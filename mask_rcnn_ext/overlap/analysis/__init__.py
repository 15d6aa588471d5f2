"""What a model does well and where it fails on a data set: see `run_analysis.analyze`."""
