"""What needs a GPU: tests, benchmark and a training, each part short and resumable."""
