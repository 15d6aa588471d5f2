"""Keeps the memory of one image or training step for the next one, on a CPU under Linux.

glibc, the C library of most Linux systems, returns the memory of every large tensor to the system
when the tensor is freed. The next tensor gets new memory, which the system fills with zeros page by
page. This takes a large part of the time of an image or a step: see `tools/benchmark.py memory`.
The numbers that the model computes do not depend on it.
"""

import ctypes
import os
import sys

__all__ = ["reuse_freed_memory"]

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -3, -4, -8
_LARGEST = 2**30  # bytes; newer versions of glibc still return the memory of a larger tensor
_CHOICES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_")


def reuse_freed_memory() -> bool:
    """Make the whole process keep freed memory, for its next tensors.

    The process then holds the memory that it once needed at the same time, and up to about a third
    more, because blocks of other sizes leave gaps. Threads that start later
    usually share this memory. Other threads keep a part of theirs only, and so do all but the main
    one if the user has chosen `MALLOC_ARENA_MAX`.

    Returns:
        Whether it does. It does not without glibc, and if the user has chosen glibc's settings with
        `MALLOC_MMAP_THRESHOLD_`, `MALLOC_MMAP_MAX_`, `MALLOC_TRIM_THRESHOLD_` or
        `GLIBC_TUNABLES`.
    """
    chosen = "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if chosen or any(name in os.environ for name in _CHOICES) or sys.platform != "linux":
        return False
    try:
        set_option = ctypes.CDLL(None).mallopt
    except AttributeError:  # musl, the C library of Alpine Linux
        return False
    never_trims = set_option(_M_TRIM_THRESHOLD, -1)
    if "MALLOC_ARENA_MAX" not in os.environ:  # the memory of another arena is returned
        set_option(_M_ARENA_MAX, 1)
    # Older versions of glibc accept 32 MB at most. With no maps at all, no block goes back.
    return bool(
        never_trims and (set_option(_M_MMAP_THRESHOLD, _LARGEST) or set_option(_M_MMAP_MAX, 0))
    )
