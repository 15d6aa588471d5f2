"""The corrected copy of a json: what has one right answer is put right, all else stays."""

import codecs
import json

import numpy as np
import pytest
from coco_files import H, W, annotation, content, entry
from PIL import Image

from mask_rcnn_ext.data.data_check import check_dataset
from mask_rcnn_ext.data.fixed_json import require_fixable_names, write_fixed_jsons
from mask_rcnn_ext.errors import UserError
from mask_rcnn_ext.files import read_json

BOX = [10, 10, 10, 10]  # of the mask of `annotation`


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for i in (1, 2):
        Image.fromarray(rng.integers(0, 256, (H, W, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    return tmp_path


def fix(folder, *annotations, mark=b"", **changes):
    """Write a json, correct it, and check that the copy passes; return it and the changes."""
    path, fixed = folder / "train.json", folder / "fixed.json"
    before = mark + json.dumps(content(*annotations, **changes)).encode()
    path.write_bytes(before)
    check = check_dataset(str(path), str(folder))
    changes = write_fixed_jsons(check, {"train": str(fixed)})["train"]
    assert path.read_bytes() == before
    again = check_dataset(str(fixed), str(folder))
    assert again.count("error") == 0
    assert not again.splits["train"].file.completed.issues
    counts = {kind: len(ids) for kind, ids in changes.issues.items()}
    return json.loads(fixed.read_text()), counts, [f.text for f in again.findings]


def test_boxes_are_taken_from_masks_where_they_contradict(folder):
    around = [5, 5, 20, 20]  # of a whole object, partly hidden
    wrong, outside, flat = ([30, 2, 5, 5], [90, 90, 5, 5], [10, 10, 0, 10])
    boxes = [around, wrong, outside, flat]
    places = [{"image_id": 1 + i % 2, "category_id": 1 + i // 2 * 2} for i in range(4)]
    given = [annotation(i + 1, bbox=box, **places[i]) for i, box in enumerate(boxes)]
    sound = [
        annotation(i, bbox=[i, 0, 5, 5], segmentation=[[i, 0, i + 5, 0, i + 5, 5, i, 5]])
        for i in (5, 15, 25)
    ]
    coco, counts, _ = fix(folder, *given, *sound)
    fixed = [around, BOX, BOX, BOX, *(a["bbox"] for a in sound)]
    assert [a["bbox"] for a in coco["annotations"]] == fixed
    assert counts == {
        "box that contradicted its mask, taken from the mask": 1,
        "malformed box, taken from the mask": 2,
    }


def test_exact_copies_go_and_others_stay(folder):
    copy = annotation(2, segmentation=[[20, 20, 10, 20, 10, 10, 20, 10]])  # another first point
    noted = annotation(3, note="the left one")  # the same mask, but there is more to it
    coco, counts, left = fix(folder, annotation(1), copy, noted)
    assert [a["id"] for a in coco["annotations"]] == [1, 3]
    assert counts == {"exact copy of another annotation, dropped": 1}
    assert any("1 of 2 annotations repeat an object" in text for text in left)


def test_what_is_changed_when_it_is_read_is_written(folder):
    images = [entry("1", file_name="C:\\data\\1.png"), entry("2")]
    given = annotation("7", image_id="1", iscrowd="0", area=...)
    coco, counts, _ = fix(folder, given, images=images, mark=codecs.BOM_UTF8)
    (instance,) = coco["annotations"]
    assert (instance["id"], instance["image_id"], instance["iscrowd"]) == (7, 1, 0)
    assert [image["id"] for image in coco["images"]] == [1, 2]
    assert instance["area"] == 100
    assert coco["info"]["fixed_by"] == "mask_rcnn_ext"
    assert counts["file was not plain UTF-8"] == 1
    assert counts["image id read as an integer"] == 2


def test_what_has_no_single_answer_stays(folder):
    """Malformed annotations, and x and y that are exchanged in boxes or masks."""
    line = annotation(1, segmentation=[[1, 1, 9, 9]], bbox=[1, 1, 8, 8], image_id=2)
    exchanged = [
        annotation(i, bbox=[2, 20, 8, 6], segmentation=[[20, 2, 26, 2, 26, 10, 20, 10]], **place)
        for i, place in ((2, {}), (3, {"image_id": 2}), (4, {"category_id": 3}))
    ]
    coco, counts, left = fix(folder, line, *exchanged)
    assert coco["annotations"] == [line, *exchanged]
    assert counts == {}
    assert any("x and y are exchanged" in text for text in left)
    assert any("dropped 1 of 4" in text for text in left)


def test_errors_have_no_single_answer(folder):
    path = folder / "train.json"
    path.write_text(json.dumps(content(annotation(1, category_id=8))))
    check = check_dataset(str(path), str(folder))
    with pytest.raises(UserError, match="nothing is written, because the errors"):
        write_fixed_jsons(check, {"train": str(folder / "fixed.json")})
    assert not (folder / "fixed.json").exists()


def test_text_ids_of_categories_are_the_same_in_both_files(folder):
    """They are numbered by name, also if val has them in another order."""
    names, pairs = ["cat", "dog"], []
    for split, order in (("train", names), ("val", names[::-1])):
        categories = [{"id": f"c-{name}", "name": name} for name in order]
        image = entry(1 if split == "train" else 2)
        both = [annotation(1, category_id="c-cat", image_id=image["id"])]
        (folder / f"{split}.json").write_text(
            json.dumps(content(*both, images=[image], categories=categories))
        )
        pairs += [str(folder / f"{split}.json"), str(folder)]
    outputs = {split: str(folder / f"{split}_fixed.json") for split in ("train", "val")}
    write_fixed_jsons(check_dataset(*pairs), outputs)
    tables = [read_json(path)["categories"] for path in outputs.values()]
    assert [{c["name"]: c["id"] for c in table} for table in tables] == [{"cat": 1, "dog": 2}] * 2


def test_names_that_may_not_be_written(folder):
    given, other = str(folder / "train.json"), folder / "other.json"
    (folder / "train.json").write_text('{"info": {"fixed_by": "mask_rcnn_ext"}}')
    other.write_text('{"info": {"fixed_by": "me"}}')
    for path, words in (
        (given, "is the file that is checked"),
        (str(folder), "got the folder"),
        (str(other), "no --fix has written it"),
        (str(folder / "1.png"), "no --fix has written it"),
    ):
        with pytest.raises(UserError, match=words):
            require_fixable_names({"train": path}, {"train": given})
    (folder / "link.json").symlink_to(given)
    with pytest.raises(UserError, match="is the file that is checked"):
        require_fixable_names({"train": str(folder / "link.json")}, {"train": given})
    two = {"train": str(folder / "a.json"), "val": str(folder / "a.json")}
    with pytest.raises(UserError, match="expected 2 different file names"):
        require_fixable_names(two, {"train": given, "val": str(other)})
    other.write_text('{"info": {"fixed_by": "mask_rcnn_ext"}}')
    require_fixable_names({"train": str(other)}, {"train": given})
