"""The helpers for messages of users' mistakes."""

import math

import pytest

from mask_rcnn_ext import UserError
from mask_rcnn_ext.errors import count_noun, require_choice, require_range


@pytest.mark.parametrize(("value", "low", "high"), [(1, 1, math.inf), (0, 0, 1), (1, 0, 1)])
def test_the_limits_are_allowed(value, low, high):
    require_range("--x", value, low, high)


@pytest.mark.parametrize(
    ("value", "limits", "message"),
    [
        (0, (1,), "--x: expected 1 or more, got 0"),
        (2.0, (0, 0.5), "--x: expected 0 to 0.5, got 2"),
        (-12345678, (0,), "--x: expected 0 or more, got -12345678"),
        (math.nan, (0, 1), "--x: expected 0 to 1, got nan"),
    ],
)
def test_a_number_beyond_its_limits_is_named(value, limits, message):
    with pytest.raises(UserError) as caught:
        require_range("--x", value, *limits)
    assert str(caught.value) == message


def test_an_unknown_name_gets_the_known_ones_and_the_nearest():
    require_choice("--x", "fast", {"exact": 1, "fast": 2, "fastest": 3})
    with pytest.raises(UserError) as caught:
        require_choice("--x", "fsat", {"exact": 1, "fast": 2, "fastest": 3})
    expected = "--x: expected exact, fast or fastest, got 'fsat'; did you mean 'fast'?"
    assert str(caught.value) == expected


def test_a_count_and_its_noun_agree():
    counts = [count_noun(count, "edge") for count in (0, 1, 1200)]
    assert counts == ["0 edges", "1 edge", "1,200 edges"]
    assert [count_noun(n, "class") for n in (1, 2)] == ["1 class", "2 classes"]
    assert count_noun(3, "box") == "3 boxes"
