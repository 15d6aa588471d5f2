"""Which images go to validation."""

import pytest

from mask_rcnn_ext.data.split import split_coco
from mask_rcnn_ext.errors import UserError


def make(objects, names=None):
    """Return a json; `objects[i]` are the categories of the objects of image i + 1."""
    images = [
        {"id": i, "file_name": names[i - 1] if names else f"{i:03d}.png"}
        for i in range(1, len(objects) + 1)
    ]
    annotations = [
        {"id": 100 * i + k, "image_id": i, "category_id": category, "iscrowd": 0}
        for i, categories in enumerate(objects, 1)
        for k, category in enumerate(categories)
    ]
    categories = [{"id": c, "name": str(c)} for c in sorted({c for o in objects for c in o})]
    return {"images": images, "annotations": annotations, "categories": categories}


def count(content, category):
    return sum(a["category_id"] == category for a in content["annotations"])


@pytest.mark.parametrize("seed", range(5))
def test_shares_of_images_and_of_every_class(seed):
    """100 images: each has a 1, each fifth two 2, each tenth a 3."""
    content = make([[1, *([2, 2] * (i % 5 == 0)), *([3] * (i % 10 == 0))] for i in range(100)])
    train, val = split_coco(content, 0.8, seed=seed)
    assert len(val["images"]) == 20
    assert [count(val, c) for c in (1, 2, 3)] == [20, 8, 2]
    assert [count(train, c) for c in (1, 2, 3)] == [80, 32, 8]
    assert train["categories"] == val["categories"] == content["categories"]
    ids = [i["id"] for part in (train, val) for i in part["images"]]
    assert sorted(ids) == [i["id"] for i in content["images"]]


def test_the_seed_decides_and_the_order_of_the_file_does_not():
    content = make([[1]] * 30)
    turned = {**content, "images": content["images"][::-1]}
    first, same, other = (
        {image["id"] for image in split_coco(given, 0.8, seed=seed)[1]["images"]}
        for given, seed in ((content, 0), (turned, 0), (content, 1))
    )
    assert first == same != other


def test_a_class_of_two_images_stays_in_training_and_one_of_three_does_not():
    assert count(split_coco(make([[1]] * 20 + [[2]] * 2), 0.8)[1], 2) == 0
    assert count(split_coco(make([[1]] * 20 + [[2]] * 3), 0.8)[1], 2) == 1


@pytest.mark.parametrize(
    "group_by", [r"^slide\d+", r"(slide\d+)_", r"^sl(i)de(\d+)", "patient"], ids=str
)
def test_groups_stay_together(group_by):
    names = [f"slide{i % 10}_{i}.png" for i in range(50)]
    content = make([[1]] * 50, names)
    for image, name in zip(content["images"], names, strict=True):
        image["patient"] = int(name[5])
    train, val = split_coco(content, 0.8, group_by=group_by)
    groups = [{i["patient"] for i in part["images"]} for part in (train, val)]
    assert not groups[0] & groups[1]
    assert [len(g) for g in groups] == [8, 2]


def test_both_parts_get_a_group():
    for fraction in (0.01, 0.99):
        parts = split_coco(make([[1]] * 3), fraction)
        assert all(part["images"] for part in parts)
    _, val = split_coco(make([[1]] * 5, ["a1", "a2", "a3", "a4", "b1"]), 0.9, group_by="^.")
    assert [i["file_name"] for i in val["images"]] == ["b1"]


def test_crowds_and_images_without_objects():
    content = make([[1]] * 10 + [[]] * 10)
    content["annotations"] += [
        {"id": i, "image_id": i, "category_id": 1, "iscrowd": 1} for i in range(1, 6)
    ]
    train, val = split_coco(content, 0.8)
    assert len(val["images"]) == 4
    assert sum(not a["iscrowd"] for a in val["annotations"]) == 2
    assert len(train["annotations"]) + len(val["annotations"]) == 15


@pytest.mark.parametrize(
    ("objects", "options", "message"),
    [
        (3, {"fraction": 1}, "expected a number between 0 and 1, such as 0.8, got 1"),
        (3, {"fraction": 80}, "got 80"),
        (1, {"fraction": 0.8}, "at least 2 images, got 1"),
        (3, {"fraction": 0.8, "group_by": r"\d"}, "got 1"),
        (3, {"fraction": 0.8, "group_by": "("}, "is no regular expression"),
        (3, {"fraction": 0.8, "group_by": "slide"}, "3 of 3 images have no match of 'slide'"),
        (3, {"fraction": 0.8, "group_by": "patient"}, "1 of 3 images has no `patient`"),
    ],
)
def test_what_is_refused(objects, options, message):
    content = make([[1]] * objects)
    if options.get("group_by") == "patient":
        content["images"][0]["patient"] = content["images"][1]["patient"] = 5
    with pytest.raises(UserError) as error:
        split_coco(content, **options)
    assert message in str(error.value)
