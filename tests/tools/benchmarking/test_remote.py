"""A contender in a process of its own: its results, its time, and its end."""

import functools
import operator
import os
import signal
import subprocess
import time

import pytest
from benchmarking.processes import run_in_process
from benchmarking.remote import Remote

from mask_rcnn_ext import UserError


def test_it_returns_seconds_and_results():
    # The function is value -> 3 * value.
    with Remote(functools.partial, operator.mul, 3) as remote:
        assert remote.time(5)[1] == 15
        seconds, found = remote.time([1])
        assert found == [1, 1, 1]
        assert seconds >= 0
    assert remote._process.exitcode == 0
    with pytest.raises(RuntimeError, match="has ended with code 0"):
        remote.time(5)


def test_the_time_is_the_one_of_the_call():
    with Remote(functools.partial, time.sleep) as remote:
        seconds, _ = remote.time(0.2)
    assert seconds >= 0.2


@pytest.mark.parametrize("number", [(), (0,)])
def test_a_process_that_fails_is_told(number, capfd):
    """At the start, and in a call."""
    with pytest.raises(RuntimeError, match="has ended with code 1"):
        Remote(functools.partial, *([operator.truediv, 1] if number else [])).time(*number)
    assert "Traceback" in capfd.readouterr().err


def test_a_process_that_is_killed_is_told(monkeypatch):
    remote = Remote(functools.partial, time.sleep)
    os.kill(remote._process.pid, signal.SIGKILL)
    with pytest.raises(UserError, match=r"of detectron2 was ended by SIGKILL\..*memory is short"):
        remote.time(1)
    killed = functools.partial(subprocess.CompletedProcess, [], -signal.SIGKILL)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: killed())
    with pytest.raises(UserError, match=r"of ours was ended by SIGKILL\."):
        run_in_process("evaluate_once", "ours")


def test_ctrl_c_is_for_the_parent():
    with Remote(functools.partial, time.sleep) as remote:
        os.kill(remote._process.pid, signal.SIGINT)
        assert remote.time(0.1)[0] >= 0.1
    assert remote._process.exitcode == 0
