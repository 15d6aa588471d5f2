"""Masks in right boxes: kinds and IoU counted by hand, and a training measured by the command."""

import json

import measure_mask_errors
import pytest
import torch
from reproduction.mask_errors import find_kinds, mask_ious, resample_masks
from small_runs import write_data
from support import SMALL, TINY_CONFIG, run_train_net


def rectangles(*boxes, size=(80, 100)):
    """Return bit masks that fill XYXY boxes."""
    masks = torch.zeros(len(boxes), *size, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[y1:y2, x1:x2] = True
    return masks


def test_iou_of_shifted_rectangles():
    truth = rectangles((0, 0, 10, 10), (0, 0, 10, 10), (20, 20, 30, 30))
    found = rectangles((5, 0, 15, 10), (0, 0, 10, 10), (0, 0, 5, 5))
    assert mask_ious(found, truth).tolist() == pytest.approx([50 / 150, 1, 0])


def test_small_objects_and_objects_apart():
    # 28 x 32 pixels next to nothing; 32 x 32, whose box meets that of 40 x 40; and 4 x 4 inside it.
    masks = rectangles((72, 0, 100, 32), (0, 0, 32, 32), (31, 31, 71, 71), (40, 40, 44, 44))
    assert {kind: which.tolist() for kind, which in find_kinds(masks).items()} == {
        "small, apart": [True, False, False, False],
        "small, boxes overlap": [False, False, False, True],
        "large, apart": [False, False, False, False],
        "large, boxes overlap": [False, True, True, False],
    }


def test_a_finer_grid_draws_a_better_mask():
    ys, xs = torch.arange(80)[:, None] + 0.5, torch.arange(100)[None] + 0.5
    disk = ((xs - 50) ** 2 + (ys - 40) ** 2 < 35**2)[None]
    coarse, fine = (mask_ious(resample_masks(disk, side), disk).item() for side in (7, 28))
    assert 0.8 < coarse < fine < 1


def test_the_command_measures_a_training(tmp_path):
    run = tmp_path / "run"
    data = write_data(tmp_path, train=4, val=3)
    options = [*SMALL, "SOLVER.MAX_ITER", "1", "OUTPUT_DIR", str(run)]
    assert run_train_net("--config-file", TINY_CONFIG, *data, *options) == 0
    results = tmp_path / "errors.json"
    assert measure_mask_errors.main([str(run), "--results", str(results)]) == 0
    measured = json.loads(results.read_text())["run"]
    whole, *parts = measured["kinds"]
    for rows in (parts, measured["classes"]):
        assert sum(row["objects"] for row in rows) == whole["objects"] > 0
        mean = sum(row["objects"] * row["iou"] for row in rows) / whole["objects"]
        assert mean == pytest.approx(whole["iou"])
    assert measured["thresholds"]["0.5"] == pytest.approx(whole["iou"])
    assert 90 < whole["bound"] <= 100
