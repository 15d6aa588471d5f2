"""Benchmarks without other processes, which take seconds to start."""

import pytest
from benchmarking import growth, inference, training
from benchmarking.rounds import time_call


class Local:
    """Takes the place of `Remote` in this process."""

    def __init__(self, make, *arguments):
        self._function = make(*arguments)

    def time(self, value=None):
        return time_call(lambda: self._function(value))

    def close(self):
        del self._function  # a later call would fail


@pytest.fixture
def local(monkeypatch):
    """Run detectron2 in this process, where the tests have made its models small."""
    for module in (inference, training):
        monkeypatch.setattr(module, "Remote", Local)
    assert not hasattr(growth, "Remote")
