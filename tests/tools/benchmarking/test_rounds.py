"""Contenders take turns, and no verdict comes from noise."""

import pytest
from benchmarking.parts import compare_rows
from benchmarking.rounds import compare, take_turns


def test_each_contender_runs_once_a_round_and_the_first_round_does_not_count():
    calls = []

    def contender(name):
        def run_once():
            calls.append(name)
            return {"work": float(len(calls))}

        return run_once

    found = take_turns({"a": contender("a"), "b": contender("b")}, rounds=2)
    assert calls == ["b", "a", "a", "b", "b", "a"]
    assert found == {"a": [{"work": 3}, {"work": 6}], "b": [{"work": 4}, {"work": 5}]}


def test_the_ratio_is_the_median_of_the_ratios_of_the_rounds():
    """A load that slows down a whole round changes no ratio."""
    found = compare([1.0, 10.0, 1.0], [4.0, 40.0, 5.0])
    assert found == {
        "seconds": 1.0, "ratio": 4.0, "ratios": [4.0, 5.0], "verdict": "4.00 times as fast",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("seconds", "verdict"),
    [
        ([2.0, 2.0, 2.0], "2.00 times slower"),
        ([1.0, 0.2, 0.1], "too noisy: half of the ratios are between 3.00 and 7.50"),
        ([1.0, 1.0], "no verdict: fewer than 3 rounds"),
    ],
)
def test_verdicts(seconds, verdict):
    assert compare(seconds, [1.0] * len(seconds))["verdict"] == verdict


def test_rows_are_by_what_was_timed():
    times = {
        "old": [{"forward": 2.0, "backward": 6.0}] * 3,
        "new": [{"forward": 1.0, "backward": 2.0}] * 3,
    }
    rows = compare_rows("small", times, "old")
    assert [(row.case, row.contender, row.ratio) for row in rows] == [
        ("small, forward", "old", 1.0),
        ("small, forward", "new", 2.0),
        ("small, backward", "old", 1.0),
        ("small, backward", "new", 3.0),
    ]
    assert [row.verdict for row in rows[:2]] == ["baseline", "2.00 times as fast"]
