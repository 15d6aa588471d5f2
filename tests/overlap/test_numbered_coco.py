"""What `COCOeval` needs and a data set may lack."""

import pytest

from mask_rcnn_ext.overlap.numbered_coco import NumberedCOCO


@pytest.mark.parametrize(
    ("keys", "area"),
    [
        ({"bbox": [1, 2, 3, 4]}, 12),
        ({"bbox": [1, 2, 3, 4], "area": 5}, 5),
        ({"bbox": [1, 2, 3, 4], "area": None, "segmentation": [[0, 0, 2, 0, 2, 2, 0, 2]]}, 4),
        ({"bbox": None}, 0),
        ({}, 0),
    ],
)
def test_an_object_without_area_gets_one(keys, area):
    content = {
        "images": [{"id": "a", "height": 9, "width": 9}],
        "categories": [{"id": 7, "name": "cat"}],
        "annotations": [{"id": 0, "image_id": "a", "category_id": 7, **keys}],
    }
    (annotation,) = NumberedCOCO(content).anns.values()
    assert annotation["area"] == area
    assert annotation["iscrowd"] == 0
