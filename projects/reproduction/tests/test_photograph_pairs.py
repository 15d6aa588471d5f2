"""Pairs that can show the effect of FCIS's parts: counted by their boxes, and held out."""

import pytest
from reproduction.fcis.photograph_pairs import count_pairs, hold_out

from mask_rcnn_ext.files import write_json
from mask_rcnn_ext.overlap.detections import load_truth


def make_set(*images, names=("1", "2")):
    """Return COCO content: each image is a list of (class, XYWH), "crowd" after it for a crowd."""
    categories = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
    content = {"images": [], "annotations": [], "categories": categories}
    for number, objects in enumerate(images, 1):
        name = f"{number}.png"
        content["images"].append({"id": number, "file_name": name, "width": 90, "height": 90})
        for category, (x, y, w, h), *crowd in objects:
            box = [[x, y, x + w, y, x + w, y + h, x, y + h]]
            content["annotations"].append(
                {
                    "id": 1 + len(content["annotations"]),
                    "image_id": number,
                    "category_id": category,
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": int(bool(crowd)),
                    "segmentation": box,
                }
            )
    return content


# The middle ninth of the outer box is (30, 30) to (60, 60), of the inner one (40, 40) to (50, 50).
NESTED = [(1, (0, 0, 90, 90)), (1, (30, 30, 30, 30))]
APART = [(1, (0, 0, 30, 30)), (1, (29, 29, 30, 30))]  # they share one pixel, of different parts


def test_a_nested_pair_is_counted(tmp_path):
    other = [(1, (0, 0, 90, 90)), (2, (30, 30, 30, 30)), (1, (30, 30, 30, 30), "crowd")]
    path = tmp_path / "set.json"
    write_json(path, make_set(NESTED, APART, other, []))
    count = count_pairs([load_truth(path)])
    assert (count.images, count.objects, count.pairs, count.nested) == (4, 6, 2, 1)
    assert count.area == 30 * 30 + 1
    # Parts of 30 and of 10 pixels: only the middle one is in both at once.
    assert count.same["k = 3"] == pytest.approx(10 * 10)
    # Parts of 90/7 and 30/7 pixels: the middle one of both, and no other, as 2/7 of the outer box
    # ends at 25.7, before the inner one begins.
    assert count.same["k = 7"] == pytest.approx((30 / 7) ** 2)
    assert count.able_pairs == {"k = 7": 1, "k = 3": 1}
    assert count.able_images == {"k = 7": 1, "k = 3": 1}
    twice = count_pairs([load_truth(path)] * 2)
    assert (twice.images, twice.pairs) == (8, 4)


def test_images_that_can_show_the_effect_are_held_out():
    """An image of the training part moves; one of two classes or without such a pair stays."""
    two_classes = [NESTED[0], (2, NESTED[1][1])]
    crowd = [NESTED[0], (*NESTED[1], "crowd")]
    train, val = make_set(APART, NESTED, two_classes, crowd, []), make_set(APART)
    kept, held = hold_out(train, val)
    assert [image["file_name"] for image in kept["images"]] == ["1.png", "3.png", "4.png", "5.png"]
    assert [image["file_name"] for image in held["images"]] == ["2.png", "1.png"]
    assert [a["bbox"][2] for a in held["annotations"]] == [90, 30, 30, 30]
    assert [a["image_id"] for a in held["annotations"]] == [1, 1, 2, 2]
    for part in (kept, held):
        for items in (part["images"], part["annotations"]):
            assert [item["id"] for item in items] == list(range(1, len(items) + 1))
    assert kept["categories"] == held["categories"] == train["categories"]
