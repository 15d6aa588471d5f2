"""Checkpoints in the safetensors format, for sharing: tensors and text, no pickle.

A file has the contents of a `.pth` checkpoint, see `description`. The values other than the weights
are json, under the key `mask_rcnn_ext` of the file's metadata. Files of other programs, which lack
it, hold weights only.
"""

import json
import os
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save

from ..files import atomic_open, make_jsonable
from .safe_load import explain_unreadable

__all__ = ["has_description", "load_safetensors", "save_safetensors"]

_KEY = "mask_rcnn_ext"


def load_safetensors(path: str) -> dict[str, Any]:
    """Return the contents: `model`, the tensors by name, and the values that the file describes.

    Args:
        path: a local file.

    Raises:
        UserError: the file is unreadable.
    """
    try:
        with safe_open(path, framework="pt") as file:
            values = json.loads((file.metadata() or {}).get(_KEY, "{}"))
            if not isinstance(values, dict):
                raise ValueError(f"its metadata is {type(values).__name__}, expected an object")
            names = file.keys()
            return {**values, "model": {name: file.get_tensor(name) for name in names}}
    except Exception as error:  # a broken file raises errors of safetensors, json and PyTorch
        raise explain_unreadable(path, error, "checkpoint") from error


def has_description(path: str | os.PathLike[str]) -> bool:
    """Return whether this package has written a file."""
    try:
        with safe_open(path, framework="pt") as file:
            return _KEY in (file.metadata() or {})
    except Exception:  # see `load_safetensors`
        return False


def save_safetensors(contents: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a checkpoint atomically.

    Args:
        contents: `model`, a dict of tensors, and values that json can hold.
        path: the file to write.

    Raises:
        UserError: the file cannot be written.
    """
    values = {key: value for key, value in contents.items() if key != "model"}
    # A copy: the format does not allow tensors that share memory.
    tensors = {
        name: torch.as_tensor(value).detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in contents["model"].items()
    }
    data = save(tensors, {"format": "pt", _KEY: json.dumps(make_jsonable(values))})
    with atomic_open(path) as file:
        file.write(data)
