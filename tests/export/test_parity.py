"""How far the detections of two predictors differ, on values that can be checked by hand."""

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from mask_rcnn_ext.errors import UserError
from mask_rcnn_ext.export.parity import Tolerance, compare_instances, require_parity
from mask_rcnn_ext.layers.packed_masks import PackedMasks

SIZE = (20, 30)


def found(*objects) -> Instances:
    """Return instances of (class, score, box); the mask fills the box."""
    masks = np.zeros((len(objects), *SIZE), dtype=bool)
    for mask, (_, _, box) in zip(masks, objects, strict=True):
        x0, y0, x1, y1 = (round(v) for v in box)
        mask[y0:y1, x0:x1] = True
    return Instances(
        SIZE,
        pred_boxes=Boxes(torch.tensor([o[2] for o in objects], dtype=torch.float32).reshape(-1, 4)),
        scores=torch.tensor([o[1] for o in objects], dtype=torch.float32),
        pred_classes=torch.tensor([o[0] for o in objects], dtype=torch.int64),
        pred_masks=PackedMasks.pack(masks),
    )


A, B = (0, 0.9, (0, 0, 10, 10)), (1, 0.5, (10, 5, 20, 15))


def compare(first, second, *, limit=100):
    return compare_instances(first, second, Tolerance(), threshold=0.05, limit=limit)


def test_the_order_does_not_matter():
    difference = compare(found(A, B), found(B, A))
    assert (difference.unmatched, difference.box, difference.mask_iou) == (0, 0, 1)
    assert difference.deviating == 0


def test_differences_are_measured():
    difference = compare(found(A, B), found((0, 0.8, (0, 0, 10, 12)), B))
    assert difference.box == 2
    assert difference.score == pytest.approx(0.1)
    assert difference.mask_iou == pytest.approx(100 / 120)
    assert (difference.unmatched, difference.deviating) == (0, 1)
    assert "boxes up to 2 pixels apart (limit 0.1)" in difference.describe(Tolerance())


def test_one_pixel_of_a_mask_may_differ():
    first, second, third = found(A), found(A), found(A)
    for other, pixels in ((second, 1), (third, 2)):
        mask = np.zeros((1, *SIZE), dtype=bool)
        mask[0, :10, :10] = True
        mask[0, 0, :pixels] = False
        other.pred_masks = PackedMasks.pack(mask)
    assert compare(first, second).mask_iou == 1
    assert compare(first, third).mask_iou == 0.98


@pytest.mark.parametrize(
    ("second", "unmatched"),
    [
        pytest.param([A], 1, id="one is missing"),
        pytest.param([A, B, (2, 0.5, (0, 0, 5, 5))], 1, id="one more"),
        pytest.param([A, (0, 0.5, B[2])], 2, id="another class"),
        pytest.param([A, (1, 0.5, (20, 5, 30, 15))], 2, id="another place"),
        pytest.param([A, B, (2, 0.0501, (0, 0, 5, 5))], 0, id="on the threshold"),
        pytest.param([], 2, id="none"),
    ],
)
def test_detections_without_a_partner(second, unmatched):
    assert compare(found(A, B), found(*second)).unmatched == unmatched
    assert compare(found(*second), found(A, B)).unmatched == unmatched


def test_the_last_of_a_full_list_may_be_another():
    other = (0, 0.5001, (10, 0, 20, 4))
    assert compare(found(A, B), found(A, other), limit=2).unmatched == 0
    assert compare(found(A, B), found(A, other)).unmatched == 2


def test_nothing_on_both_sides():
    difference = compare(found(), found())
    assert difference == type(difference)(0, 0)


def test_the_image_that_differs_most_is_named():
    sides = {"a": (found(A), found(A)), "b": (found(A, B), found(A)), "c": (found(), found())}
    both = [lambda name: sides[name][0], lambda name: sides[name][1]]

    def measure(names, tolerance):
        images = [(name, name) for name in names]
        return require_parity(*both, images, tolerance, threshold=0.05, limit=100)

    with pytest.raises(
        UserError, match=r"1 of 3 .* 1 detection is different, 0 allowed. Most in b: 1 det"
    ):
        measure("abc", Tolerance(share=0.33))
    assert measure("abc", Tolerance(share=0.34))["deviating"] == 1
    record = measure("ac", Tolerance())
    assert (record["images"], record["detections"], record["images_without_detections"]) == (
        2,
        1,
        1,
    )
