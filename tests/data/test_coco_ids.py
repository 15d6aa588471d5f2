"""Ids of any size and kind become integers of 64 bits, without a change of what refers to what."""

import json
from typing import Any

import pytest
from coco_files import annotation, content, entry

from mask_rcnn_ext.data.coco_ids import OWN_ID, normalise_ids
from mask_rcnn_ext.data.findings import IssueCounter

TWO = [{"name": "cat"}, {"name": "dog"}]


def coco_of(image_ids: list[Any], category_ids: list[Any]) -> dict[str, Any]:
    """Return a json with one instance for each pair of an image and a category."""
    images = [entry(i + 1, id=own) for i, own in enumerate(image_ids)]
    categories = [{**c, "id": own} for c, own in zip(TWO, category_ids, strict=True)]
    pairs = [(i, c) for i in image_ids for c in category_ids]
    instances = [annotation(n + 1, image_id=i, category_id=c) for n, (i, c) in enumerate(pairs)]
    return json.loads(json.dumps(content(*instances, images=images, categories=categories)))


def normalise(coco: dict[str, Any], **known: int) -> tuple[list[str], str]:
    completed = IssueCounter()
    return normalise_ids(coco, known, completed), str(completed)


KINDS = {  # name -> the ids of the images and of the categories, what they become
    "integers stay": ([5, 9], [3, 8], [5, 9], [3, 8]),
    "0 and negative": ([0, -7], [0, -3], [0, -7], [0, -3]),
    "hashes of 64 bits": ([2**63 - 1, -(2**63)], [2**62, 2**62 + 1], ..., ...),
    "floats": ([1.0, 2.0], [4.0, 7.0], [1, 2], [4, 7]),
    "text of numbers": (["12", "007"], ["4", "7.0"], [12, 7], [4, 7]),
    "hashes of 128 bits": ([2**127, 5], [2**64, 3], [1, 2], [1, 2]),
    "names": (["b.png", "a.png"], ["bolt", "nut"], [1, 2], [1, 2]),
    "names and numbers": (["b", 2], ["x", 1], [1, 2], [1, 2]),
    "long text of digits": (["9" * 5000, "1"], ["8" * 41, "1"], [1, 2], [1, 2]),
}


@pytest.mark.parametrize(
    ("images", "categories", "new_images", "new_categories"), KINDS.values(), ids=KINDS
)
def test_what_refers_to_what_stays(images, categories, new_images, new_categories):
    new_images = images if new_images is ... else new_images
    new_categories = categories if new_categories is ... else new_categories
    coco = coco_of(images, categories)
    assert normalise(coco)[0] == []
    assert [i["id"] for i in coco["images"]] == new_images
    assert [c["id"] for c in coco["categories"]] == new_categories
    found = [(a["image_id"], a["category_id"]) for a in coco["annotations"]]
    assert found == [(i, c) for i in new_images for c in new_categories]
    assert all(type(part) is int for pair in found for part in pair)


def test_what_gets_a_new_number_keeps_its_own_id_too():
    coco = coco_of(["b", 5], [3, 8])
    assert "2 x" in normalise(coco)[1]
    assert [image.get(OWN_ID, image["id"]) for image in coco["images"]] == ["b", 5]
    assert not any(OWN_ID in category for category in coco["categories"])


def test_references_may_be_of_another_kind_than_the_ids():
    coco = content(annotation(1, image_id="2", category_id=3.0))
    faults, completed = normalise(coco)
    assert faults == []
    assert (coco["annotations"][0]["image_id"], coco["annotations"][0]["category_id"]) == (2, 3)
    assert "1 x image_id read as an integer (first: 2)" in completed


def test_names_as_category_ids_get_the_ids_of_the_file_they_belong_to():
    coco = coco_of([1], ["x", "y"])
    normalise(coco, dog=4, cow=1)
    assert [(c["id"], c["name"]) for c in coco["categories"]] == [(2, "cat"), (4, "dog")]
    assert [a["category_id"] for a in coco["annotations"]] == [2, 4]


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        pytest.param([6, 6, 7], [6, 8, 7], id="twice"),
        pytest.param([6, 0, -1], [6, 7, 8], id="not positive"),
        pytest.param([..., "6", 9.0], [10, 6, 9], id="none, text, float"),
        pytest.param(["a", 2**70, 2**63 - 1], [1, 2, 2**63 - 1], id="no room after the largest"),
    ],
)
def test_annotations_get_positive_ids_of_their_own(ids, expected):
    coco = content(*(annotation(0, id=i) for i in ids))
    assert normalise(coco)[0] == []
    assert [a["id"] for a in coco["annotations"]] == expected


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "image ids twice": (
        content(images=[entry(1), entry(2), entry(2), entry(1)]),
        "2 image ids are more than once in the list: 1, 2",
    ),
    "the same number": (
        content(images=[entry(1), entry(1, id="01")]),
        "1 image id is more than once",
    ),
    "category ids twice": (
        content(categories=[{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]),
        "1 category id is more than once in the list: 1",
    ),
    "no id": (
        content(images=[entry(1), entry(2, id=...)]),
        "1 of 2 images has no usable `id`: image number 1 of the list: expected an integer `id`, "
        "got None",
    ),
    "a fraction": (content(images=[entry(1), entry(2, id=1.5)]), "got 1.5"),
    "NaN": (content(images=[entry(1), entry(2, id=float("nan"))]), "got nan"),
    "true": (content(images=[entry(1), entry(2, id=True)]), "got True"),
    "unknown image": (
        content(annotation(6, image_id=5), annotation(7)),
        "1 of 2 annotations has an unknown image_id: annotation 6 has image_id 5, which is not in "
        "`images`; the nearest id there is 2 (2.png)",
    ),
    "unknown category": (content(annotation(6, category_id=8)), "nearest id there is 3 (dog)"),
    "no image id": (content(annotation(6, image_id=...)), "image_id None"),
    "unknown name": (
        content(annotation(6, image_id="imgs_a"), images=[entry(1, id="img_a")]),
        "image_id 'imgs_a', which is not in `images`; did you mean 'img_a'?",
    ),
    "counted from 0": (
        content(annotation(6, category_id=0), annotation(7, category_id=2)),
        "Each category_id is one less than an id of the list",
    ),
    "counted from 1": (content(annotation(6, image_id=3)), "Each image_id is one more"),
}


@pytest.mark.parametrize(("coco", "message"), FAULTS.values(), ids=FAULTS)
def test_ids_without_one_meaning_are_faults(coco, message):
    (fault,) = normalise(coco)[0]
    assert message in fault


def test_references_that_are_not_all_off_by_one_are_only_unknown():
    coco = content(annotation(6, category_id=0), annotation(7, category_id=3))
    (fault,) = normalise(coco)[0]
    assert "Each" not in fault
    assert [a["id"] for a in coco["annotations"]] == [7]


def test_a_message_shows_only_the_ends_of_a_long_value():
    long = "a" * 50_000 + "z" * 50_000
    wrong = content(annotation(6, image_id=long, id=long), annotation(7, category_id=long))
    twice = content(images=[entry(1, id=long), entry(2, id=long)], annotations=[])
    listed = content(images=[entry(1, id=[long]), entry(2)])
    for coco in (wrong, twice, listed):
        faults, completed = normalise(coco)
        assert faults
        for text in (*faults, completed):
            assert len(text) < 700
        assert any("aaa..." in fault for fault in faults)
