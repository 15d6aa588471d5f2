"""A contender in a process of its own: its results, its time, and its end."""

import functools
import operator
import time

import pytest
from benchmarking.remote import Remote


def test_it_returns_seconds_and_results():
    # The function is value -> 3 * value.
    with Remote(functools.partial, operator.mul, 3) as remote:
        assert remote.time(5)[1] == 15
        seconds, found = remote.time([1])
        assert found == [1, 1, 1]
        assert 0 <= seconds < 1
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
