"""Gives detectron2 the memory settings that it has in a process without this package."""

import ctypes
from collections.abc import Callable
from typing import Any, TypeVar

from mask_rcnn_ext.modeling.memory import reuse_freed_memory

__all__ = ["run_as_alone"]

Result = TypeVar("Result")

# glibc's `mallopt` option -> value. By itself, glibc raises the first two to these, step by step,
# as large tensors are freed.
_DEFAULTS = {-3: 32 * 2**20, -1: 64 * 2**20, -4: 65536}  # mmap threshold, trim threshold, mmap max


def run_as_alone(turn: Callable[[], Result], warm_up: Callable[[], Any]) -> Callable[[], Result]:
    """Return a turn that runs without the setting of `reuse_freed_memory`.

    Our models set it for the whole process, and detectron2 would profit from it. The turn begins
    without kept memory. After it the setting is made again, and `warm_up` runs, so that the next
    turn finds the memory of an earlier image or step, as it does in a process without detectron2.
    """

    def run() -> Result:
        if not reuse_freed_memory():  # never set
            return turn()
        library = ctypes.CDLL(None)
        for option, value in _DEFAULTS.items():
            library.mallopt(option, value)
        library.malloc_trim(0)
        result = turn()
        reuse_freed_memory()
        warm_up()
        return result

    return run
