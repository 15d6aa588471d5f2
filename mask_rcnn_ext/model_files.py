"""The kinds of model files, by the ends of their names."""

import os

__all__ = ["is_checkpoint", "is_exported"]


def is_checkpoint(path: str | os.PathLike[str]) -> bool:
    """Return whether a path ends like the name of a file of weights."""
    return os.fspath(path).endswith((".pth", ".safetensors", ".pkl", ".pyth"))


def is_exported(path: str | os.PathLike[str]) -> bool:
    """Return whether a path names an exported network, by its extension."""
    return os.fspath(path).lower().endswith((".onnx", ".xml"))
