"""Benchmarks without other processes, which take seconds to start."""

import pickle

import pytest
from benchmarking import growth, inference, training
from benchmarking.rounds import time_call


class Local:
    """Takes the place of `Remote` in this process."""

    def __init__(self, make, *arguments):
        """Make the function, from arguments that went through a pickle as in another process."""
        make, arguments = pickle.loads(pickle.dumps((make, arguments)))
        self._function = make(*arguments)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        del self._function  # a later call would fail

    def time(self, value=None):
        seconds, found = time_call(lambda: self._function(value))
        assert b"torch" not in pickle.dumps(found)  # see `Remote.time`
        return seconds, found


@pytest.fixture
def local(monkeypatch):
    """Run detectron2 in this process, where the tests have made its models small."""
    for module in (inference, training):
        monkeypatch.setattr(module, "Remote", Local)
    assert not hasattr(growth, "Remote")
