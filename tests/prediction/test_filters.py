"""Which instances stay: by class, by score, by the overlap of masks."""

import json

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from mask_rcnn_ext import UserError
from mask_rcnn_ext.layers.packed_masks import PackedMasks
from mask_rcnn_ext.prediction.arguments import parse_names, parse_thresholds
from mask_rcnn_ext.prediction.filters import InstanceFilter, MaskOverlap, find_lowest

NAMES = ["cat", "dog", "tv, screen"]


def instances_of(scores, classes, windows=None):
    """Instances with rectangular masks; a window is top, bottom, left, right."""
    found = Instances((20, 20))
    found.pred_boxes = Boxes(torch.zeros(len(scores), 4))
    found.scores = torch.tensor(scores)
    found.pred_classes = torch.tensor(classes)
    if windows is not None:
        masks = np.zeros((len(scores), 20, 20), dtype=bool)
        for mask, (top, bottom, left, right) in zip(masks, windows, strict=True):
            mask[top:bottom, left:right] = True
        found.pred_masks = PackedMasks.pack(masks)
    return found


def kept(found, **options):
    found.number = torch.arange(len(found))
    return InstanceFilter(NAMES, **options)(found).number.tolist()


def test_classes_and_scores():
    found = instances_of([0.9, 0.7, 0.4, 0.3], [0, 1, 0, 2])
    assert kept(found) == [0, 1, 2, 3]
    assert kept(found, classes=["cat", "tv, screen"]) == [0, 2, 3]
    assert kept(found, thresholds={"cat": 0.4, "dog": 0.71}) == [0, 2, 3]
    assert kept(found, thresholds={"cat": 0.41, "": 0.35}) == [0, 1]
    assert kept(found, classes=["dog"], thresholds={"dog": 0.8}) == []
    # A score that was written as a decimal number is the same score.
    score = float(np.float32(0.7))
    assert kept(instances_of([score], [1]), thresholds={"dog": 0.7}) == [0]


# 0: 100 pixels. 1: 90 of the same. 2: a part of 0, 16 pixels. 3: of another class. 4: empty.
WINDOWS = [(0, 10, 0, 10), (0, 9, 0, 10), (2, 6, 2, 6), (0, 10, 0, 10), (5, 5, 0, 0)]
OVERLAPPING = ([0.5, 0.6, 0.4, 0.3, 0.2], [0, 0, 0, 1, 0], WINDOWS)


@pytest.mark.parametrize(
    ("overlap", "expected"),
    [
        (MaskOverlap(0.9), [1, 2, 3, 4]),  # 90 / 100 is just too much
        (MaskOverlap(0.91), [0, 1, 2, 3, 4]),
        (MaskOverlap(0.9, each_class=False), [1, 2, 4]),
        (MaskOverlap(0.9, "containment"), [1, 3, 4]),
        (MaskOverlap(1.0, "containment", each_class=False), [1, 4]),
    ],
    ids=str,
)
def test_masks_that_overlap_a_better_one_go(overlap, expected):
    assert kept(instances_of(*OVERLAPPING), mask_overlap=overlap) == expected


def test_a_mask_that_went_covers_nothing():
    """In a row of shifted masks each overlaps its neighbour only; every second one stays."""
    windows = [(0, 10, left, left + 8) for left in (0, 3, 6)]
    found = instances_of([0.9, 0.8, 0.7], [0, 0, 0], windows)
    assert kept(found, mask_overlap=MaskOverlap(0.4)) == [0, 2]


def test_hundreds_of_masks_are_compared():
    """More than 255, which `pycocotools.mask.area` 2.0.11 cannot count in one call."""
    windows = [(i // 20, i // 20 + 1, i % 20, i % 20 + 1) for i in range(150) for _ in range(2)]
    found = instances_of(np.linspace(0.9, 0.5, 300).tolist(), [0] * 300, windows)
    assert kept(found, mask_overlap=MaskOverlap(1.0)) == list(range(0, 300, 2))


def test_whole_masks_are_compared_too():
    found = instances_of(*OVERLAPPING)
    found.pred_masks = found.pred_masks.unpack()
    assert kept(found, mask_overlap=MaskOverlap(0.9)) == [1, 2, 3, 4]


def test_a_model_without_masks_is_told():
    with pytest.raises(UserError, match="predicts no masks"):
        kept(instances_of([0.9], [0]), mask_overlap=MaskOverlap(0.5))


def test_names_on_two_lines_are_refused():
    with pytest.raises(UserError, match="such as cat,dog in one line"):
        parse_names("cat\ndog")


def test_names_and_thresholds_are_read(tmp_path):
    assert parse_names('cat, "tv, screen",dog') == ["cat", "tv, screen", "dog"]
    assert parse_thresholds("0.4") == pytest.approx(0.4)
    assert parse_thresholds('cat=0.4,"tv, screen=0.6",0.1') == {
        "cat": 0.4,
        "tv, screen": 0.6,
        "": 0.1,
    }
    path = tmp_path / "analysis.json"
    path.write_text(json.dumps({"thresholds": {"cat": 0.25, "dog": None}, "more": 1}))
    assert parse_thresholds(str(path)) == {"cat": 0.25, "": 0.5}


@pytest.mark.parametrize("text", ["cat", "cat=", "cat=2", "-0.1", "nan", "", "none.json"])
def test_other_thresholds_are_refused(text):
    with pytest.raises(UserError):
        parse_thresholds(text)


@pytest.mark.parametrize("content", ["[]", "{}", '{"thresholds": 0.4}', '{"thresholds": {"a": 3}}'])
def test_a_json_without_thresholds_is_told(tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(UserError, match=r"x\.json"):
        parse_thresholds(str(tmp_path / "x.json"))


def test_the_model_finds_all_that_the_filter_keeps():
    """A model keeps what is above its threshold; the filter also keeps what is equal."""
    lowest = find_lowest({"cat": 0.7, "": 0.9})
    assert np.float32(0.7) > np.float32(lowest) > np.float32(0.6999)
    assert find_lowest(0.3) == pytest.approx(0.3)
