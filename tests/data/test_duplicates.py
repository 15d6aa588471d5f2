"""Objects that are annotated twice in an image are reported."""

import numpy as np
import pytest
from coco_masks import compressed, uncompressed

from mask_rcnn_ext.data.contradictions import explain_duplicates

H, W = 30, 40
MASK = np.zeros((H, W), dtype=np.uint8)
MASK[10:20, 5:25] = 1
POLYGON = [[5, 10, 25, 10, 25, 20, 5, 20]]
ANNOTATION = {
    "id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0,
    "bbox": [5, 10, 20, 10], "segmentation": POLYGON,
}  # fmt: skip
L_SHAPE = [[5, 10, 25, 10, 25, 20, 15, 20, 15, 15, 5, 15]]  # of the same box


def explain(**changes):
    copies = explain_duplicates(
        [ANNOTATION, {**ANNOTATION, "id": 2, **changes}], {1: (H, W), 2: (H, W)}
    )
    assert copies is None or copies.groups == [(1, 2)]
    return copies.text if copies else ""


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"segmentation": [[25, 20, 5, 20, 5, 10, 25, 10]]},
        {"segmentation": [[5.01, 10, 25, 10.01, 25, 20, 5, 20]], "bbox": [5.01, 10, 19.99, 10]},
        {"segmentation": compressed(MASK)},
        {"segmentation": uncompressed(MASK)},
    ],
    ids=["equal", "another first point", "rounding", "RLE", "uncompressed RLE"],
)
def test_a_copy_is_reported(changes):
    assert "annotation 2 repeats 1." in explain(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"image_id": 2},
        {"category_id": 2},
        {"iscrowd": 1},
        {"segmentation": L_SHAPE},
        {"bbox": [5, 10, 20, 12]},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_another_object_is_no_copy(changes):
    assert explain(**changes) == ""


def test_copies_of_boxes_without_masks():
    boxes = [{**ANNOTATION, "id": i, "segmentation": []} for i in range(1, 8)]
    boxes[6]["bbox"] = [8, 10, 20, 10]
    text = explain_duplicates(boxes, {1: (H, W)}).text
    assert text.startswith("5 of 7 annotations repeat an object")
    named = "annotation 2 repeats 1, annotation 3 repeats 1, annotation 4 repeats 1 and 2 more"
    assert named in text
