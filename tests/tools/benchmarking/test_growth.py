"""The benchmark of growth: its cases and its comparison, not its times."""

import re

import benchmark
import pytest
from benchmarking import growth, inference
from tiny_model import tiny_cfg


@pytest.fixture
def seen(monkeypatch):
    """Shrink the models; return the options that they were made with."""
    found = []

    def small(args):
        found.append((args.size, args.detections, args.classes))
        cfg = tiny_cfg(args.classes)
        cfg.TEST.DETECTIONS_PER_IMAGE = args.detections
        cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = min(args.size), max(args.size)
        return cfg

    monkeypatch.setattr(inference, "make_config", small)
    monkeypatch.setattr(growth, "DEFAULTS", growth.DEFAULTS | {"size": 60, "classes": 3})
    return found


def test_one_value_changes_at_a_time(local, seen, monkeypatch, capsys):
    axes = {"images": (1, 2), "detections": (4,), "size": (90,), "classes": (5,)}
    monkeypatch.setattr(growth, "AXES", axes)
    assert benchmark.main(["growth", "--rounds", "1", "--levels", "exact"]) == 0
    rows = [re.split(r"\s{2,}", line.strip()) for line in capsys.readouterr().out.splitlines()]
    found = [tuple(row[:2]) for row in rows if len(row) > 3]
    cases = ["images 1", "images 2", "detections 4", "size 90", "classes 5"]
    assert [pair for pair in found if pair[1] == "exact"] == [(case, "exact") for case in cases]
    equal = {row[0]: row[3] for row in rows if row[1:2] == ["exact"]}
    assert equal["images 1"] == equal["size 90"] == "40 equal"
    assert equal["images 2"] == "80 equal"
    assert equal["detections 4"] == "4 equal"
    assert seen == [
        ([60, 80], 40, 3), ([60, 80], 40, 3), ([60, 80], 4, 3), ([90, 120], 40, 3),
        ([60, 80], 40, 5),
    ]  # fmt: skip


def test_a_difference_is_seen():
    assert growth._compare_counts([1, 2], [1, 2]) == "2 equal"
    assert growth._compare_counts([1, 2], [1, 3]) == "2 and 2 found"


def test_wrong_options_are_errors(capsys):
    assert benchmark.main(["growth", "--device", "cuda"]) == 2
    assert "use cpu" in capsys.readouterr().err
