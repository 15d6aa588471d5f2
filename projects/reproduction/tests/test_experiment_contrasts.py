"""What the FCIS experiment compares, by hand."""

import numpy as np
import pytest
from made_up_experiment import K1, K3, K7, RIVAL
from reproduction.fcis.axis_records import AxisRecord
from reproduction.fcis.contrasts import compare_axis_runs, compare_same_part

from mask_rcnn_ext.overlap.same_part import SamePartRecord


def records(one, two=0.0, images=4):
    """Return records of some images: 10 % are wrong elsewhere, `one` and `two` % more here."""
    sums = {}
    for pair, more in (("one_class", one), ("two_classes", two)):
        for region, wrong in (("same", 10 + more), ("other", 10)):
            sums |= {f"{pair}/{region}/wrong": wrong, f"{pair}/{region}/pixels": 100}
    return [SamePartRecord(image, sums) for image in range(images)]


def exactly(value):
    return pytest.approx(dict.fromkeys(("value", "low", "high"), value))


def test_differences_between_classes_models_and_parts():
    found = compare_same_part(
        {
            RIVAL: {7: [records(1)], 3: [records(2)]},
            K7: {7: [records(5, 2)], 3: [records(6, 2)]},
            K3: {7: [records(9, 1)], 3: [records(20, 1)]},
        },
        draws=20,
    )
    assert found["classes"][K7] == {"k = 7": exactly(3), "k = 3": exactly(4)}
    assert found["control"] == {
        K7: {"k = 7": exactly(4), "k = 3": exactly(4)},
        K3: {"k = 7": exactly(8), "k = 3": exactly(18)},
    }
    assert found["growth"] == {
        "fcis": exactly(15),  # k = 3 at its own parts, 20, minus k = 7 at its own, 5
        "mask_rcnn": exactly(1),
        "minus": exactly(14),
    }


def test_what_needs_a_missing_model_is_left_out():
    found = compare_same_part({K7: {7: [records(5)], 3: [records(6)]}}, draws=5)
    assert found.keys() == {"classes"}
    assert compare_axis_runs({K7: [[axis_record()]]}, draws=5) == {}


def test_trainings_of_two_models_are_drawn_independently():
    """The same records twice: if both drew the same trainings, the difference would be 0."""
    same = [records(one) for one in (0, 10, 20)]
    found = compare_same_part({RIVAL: {7: same, 3: same}, K7: {7: same, 3: same}}, draws=200)
    entry = found["control"][K7]["k = 7"]
    assert entry["value"] == 0
    assert entry["low"] < -5
    assert entry["high"] > 5


def test_images_are_drawn_together():
    """Models that differ in no training but much between images: the difference is certain."""
    mixed = [*records(0), *records(40)]
    found = compare_same_part({RIVAL: {7: [mixed], 3: [mixed]}, K1: {7: [mixed], 3: [mixed]}})
    assert found["control"][K1]["k = 7"] == exactly(0)


def axis_record(length=100.0, at_7=1, at_3=1):
    """Return a record with so much length at each line of k = 7 and of k = 3, and 1 elsewhere."""
    places = np.zeros(84, dtype=np.intp)
    for cell in range(2, 20):
        amount = at_7 if cell % 3 == 0 else at_3 if cell % 7 == 0 else 1
        places[4 * cell] = amount
    return AxisRecord(0, length, 50.0, places)


def test_ratios_of_axis_runs():
    found = compare_axis_runs(
        {
            RIVAL: [[axis_record(50.0)] * 3],
            K7: [[axis_record(150.0, at_7=6, at_3=2)] * 3],
            K3: [[axis_record(at_7=2, at_3=8)] * 3],
        },
        draws=5,
    )
    assert found["control"][K7] == {
        "excess": exactly(3),
        "lines_7": exactly(6),
        "lines_3": exactly(2),
    }
    assert found["moved"] == {"lines_7": exactly(3), "lines_3": exactly(4)}
