"""Memory that one step frees is kept for the next one, unless the user chose otherwise."""

import ctypes
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from tiny_model import tiny_cfg
from torch import nn

from mask_rcnn_ext.modeling import memory, precision

needs_glibc = pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc"
)

# Prints what the function returns, and how many pages of memory are new in the last of five steps.
COUNT = """
import ctypes, os, resource, runpy, sys, threading, time

ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: all pages have the same size

def step():
    for million in (74, 40, 100, 64):
        b"x" * (million * 1_000_000)

reuse = runpy.run_path(sys.argv[1])["reuse_freed_memory"]
print(reuse() if "reuse" in sys.argv else None)
for _ in range(5):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    if "thread" in sys.argv:
        thread = threading.Thread(target=step)
        thread.start()
        thread.join()
        while len(os.listdir("/proc/self/task")) > 1:
            # Until the system has ended it too; else the next one cannot have its arena.
            time.sleep(0.001)
    else:
        step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
CHOICES = (
    *("MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"),
    "MALLOC_ARENA_MAX",
)


def count_pages(*options, **variables):
    """Run `COUNT` in a process of its own, whose memory is not that of the tests."""
    kept = {name: value for name, value in os.environ.items() if name not in CHOICES}
    done = subprocess.run(
        [sys.executable, "-c", COUNT, memory.__file__, *options],
        capture_output=True, text=True, check=True, timeout=120, env={**kept, **variables},
    )  # fmt: skip
    said, pages = done.stdout.split()
    return said, int(pages)


@pytest.fixture
def without_choices(monkeypatch):
    for name in CHOICES:
        monkeypatch.delenv(name, raising=False)


@needs_glibc
def test_the_next_step_needs_no_new_memory():
    pages_of_step = (74 + 40 + 100 + 64) * 1_000_000 // os.sysconf("SC_PAGE_SIZE")
    said, pages = count_pages()
    assert said == "None"
    assert pages > pages_of_step / 2  # glibc alone returns the larger blocks
    said, pages = count_pages("reuse")
    assert said == "True"
    assert pages < pages_of_step / 100


@needs_glibc
def test_a_new_thread_shares_the_memory():
    _, pages = count_pages("reuse", "thread")
    _, of_two_arenas = count_pages("reuse", "thread", MALLOC_ARENA_MAX="2")
    assert pages < of_two_arenas / 100
    assert of_two_arenas < count_pages("thread")[1]  # a part of the memory is kept


@needs_glibc
@pytest.mark.parametrize(
    "chosen",
    [
        {"MALLOC_TRIM_THRESHOLD_": "100000"},
        {"MALLOC_MMAP_THRESHOLD_": "100000"},
        {"MALLOC_MMAP_MAX_": "100"},
        {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=100000"},
    ],
    ids=lambda chosen: next(iter(chosen)),
)
def test_settings_of_the_user_stay(chosen):
    said, pages = count_pages("reuse", **chosen)
    assert said == "False"
    assert pages > 10_000


def test_it_works_with_a_glibc_that_limits_the_threshold(without_choices, monkeypatch):
    """Older versions return 0 for a threshold above 32 MB."""
    set_options = []

    class OldLibrary:
        @staticmethod
        def mallopt(option, value):
            set_options.append((option, value))
            return int((option, value) != (-3, 2**30))

    monkeypatch.setattr(ctypes, "CDLL", lambda _: OldLibrary)
    monkeypatch.setattr(sys, "platform", "linux")
    assert memory.reuse_freed_memory()
    assert set_options == [(-1, -1), (-8, 1), (-3, 2**30), (-4, 0)]


def test_it_does_nothing_without_glibc(without_choices, monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())  # no mallopt
    assert not memory.reuse_freed_memory()
    asked = []
    library = SimpleNamespace(mallopt=lambda *option: asked.append(option) or 1)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: library)
    assert memory.reuse_freed_memory()
    asked.clear()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not memory.reuse_freed_memory()
    assert asked == []


@pytest.mark.parametrize(
    ("reuses", "device", "calls"), [(True, "cpu", 1), (False, "cpu", 0), (True, "cuda", 0)]
)
def test_models_on_a_cpu_reuse_memory(reuses, device, calls, monkeypatch):
    called = []
    monkeypatch.setattr(precision, "reuse_freed_memory", lambda: called.append(True))
    cfg = tiny_cfg(2)
    cfg.MODEL.DEVICE, cfg.MASK_RCNN_EXT.REUSE_MEMORY = device, reuses
    precision.prepare_model(cfg, nn.Identity())
    assert len(called) == calls
