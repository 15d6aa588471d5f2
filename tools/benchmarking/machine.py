"""Describes the machine of a benchmark: processor, cores, threads, load, versions."""

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import torch

from mask_rcnn_ext.errors import UserError

__all__ = ["describe_load", "describe_machine", "require_device"]

_PACKAGES = ("torch", "torchvision", "detectron2", "numpy")


def describe_machine() -> dict[str, Any]:
    """Return the processor, cores and threads, the GPU if there is one, and versions."""
    found: dict[str, Any] = {
        "processor": _find_processor(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    found["python"] = platform.python_version()
    for name in _PACKAGES:
        found[name] = find_version(name)
    return found


def find_version(package: str) -> str:
    """Return the version of an installed package, or "not installed"."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def describe_load() -> float:
    """Return how many processes wanted a core in the last minute; NaN where it is not known."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")


def _find_processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def require_device(device: str) -> None:
    """Check that PyTorch can use a device, "cpu" or "cuda".

    Raises:
        UserError: there is no CUDA device.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch finds no CUDA device here; use cpu")
