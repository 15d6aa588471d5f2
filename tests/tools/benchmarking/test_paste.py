"""The benchmark of pasting: its cases and its comparison, not its times."""

import json

import benchmark
import pytest
import torch
from benchmarking import paste


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(paste, "CASES", [(3, 40, 60), (5, 40, 60)])
    monkeypatch.setattr(paste, "MOST_BYTES", 4 * 40 * 60)


def test_it_compares_the_outputs_and_leaves_out_what_fits_no_memory(small, tmp_path):
    path = tmp_path / "benchmark.json"
    assert benchmark.main(["paste", "--rounds", "1", "--output", str(path)]) == 0
    rows = json.loads(path.read_text())["paste"]["rows"]
    assert [(row["case"], row["contender"], row["output"]) for row in rows] == [
        ("3 masks, 40 x 60", paste.BASELINE, ""),
        ("3 masks, 40 x 60", paste.OURS, "equal"),
        ("5 masks, 40 x 60", paste.OURS, ""),
    ]
    assert rows[2]["verdict"].startswith("alone")


def test_it_tells_of_a_difference(small, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(paste, "encode_packed", lambda *_: [])
    assert benchmark.main(["paste", "--rounds", "1"]) == 0
    assert "DIFFERENT" in capsys.readouterr().out


def test_its_masks_are_blobs_inside_the_image():
    probs, boxes = paste.make_inputs(50, 40, 60, seed=1)
    assert 0.2 < (probs > paste.THRESHOLD).float().mean() < 0.9
    assert (boxes >= 0).all()
    assert (boxes <= torch.tensor([60.0, 40, 60, 40])).all()
    assert torch.equal(boxes, paste.make_inputs(50, 40, 60, seed=1)[1])
