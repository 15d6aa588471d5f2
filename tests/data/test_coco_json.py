"""A COCO json as a whole: files that are refused, the report of all faults, and encodings."""

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
from coco_files import H, W, annotation, content, entry
from PIL import Image

from mask_rcnn_ext.data.coco_json import CocoJson, check_coco_json, inspect_coco_json, list_classes
from mask_rcnn_ext.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in (1, 2):
        Image.new("RGB", (W, H), (i, 0, 0)).save(tmp_path / f"{i}.png")
    return tmp_path


@pytest.fixture(autouse=True)
def _log_everything(caplog):
    caplog.set_level(logging.INFO)


def write(folder: Path, coco: Any, encoding: str = "utf-8") -> tuple[str, str]:
    """Write a json next to its images; return the path and the folder."""
    path = folder / "coco.json"
    text = coco if isinstance(coco, str) else json.dumps(coco, ensure_ascii=False)
    path.write_bytes(text.encode(encoding))
    return str(path), str(folder)


def check(folder: Path, coco: Any, encoding: str = "utf-8", **options: bool) -> CocoJson:
    return check_coco_json(*write(folder, coco, encoding), **options)


def without(key: str) -> dict[str, Any]:
    return {k: v for k, v in content().items() if k != key}


NOT_COCO = {  # name -> the json as text or as an object, a part of the error
    "not json": ('{"images": [],\n "x" 1}', "not json: .* line 2"),
    "a list": ("[]", "expected a json object .* got a list"),
    "no images": (without("images"), "`images` to be a list of objects, got nothing"),
    "no annotations": (without("annotations"), "`annotations` to be a list"),
    "no categories": (without("categories"), "`categories` to be a list"),
    "images no list": (content(images={}), "`images` .* got a dict"),
    "images empty": (content(images=[]), "`images` is empty"),
    "categories empty": (content(categories=[]), "`categories` is empty"),
    "panoptic": (content({"segments_info": []}), "panoptic form. Export the objects in the format"),
    "a long number": ('{"images": %s}' % ("9" * 5000), "has a number of 5000 digits"),
}


@pytest.mark.parametrize(("coco", "message"), NOT_COCO.values(), ids=NOT_COCO)
def test_a_file_that_is_not_coco_is_refused(folder, coco, message):
    with pytest.raises(UserError, match=message):
        check(folder, coco)


def test_a_json_that_is_not_there_or_a_folder(folder):
    (folder / "coco.json").touch()
    with pytest.raises(UserError, match=r"not found: .*cocoo.json; did you mean 'coco.json'"):
        check_coco_json(str(folder / "cocoo.json"), str(folder))
    with pytest.raises(UserError, match=r"got the folder .*\. It holds coco.json$"):
        check_coco_json(str(folder), str(folder))
    with pytest.raises(UserError, match="The json and the image folder seem to be exchanged"):
        check_coco_json(str(folder), str(folder / "coco.json"))


def test_all_faults_are_reported_in_one_message(folder):
    (folder / "3.png").write_text("no image")
    images = [
        *(entry(1), entry(2, width=99), entry(3), entry(3, file_name="4.png")),
        *(entry(5, id=None, file_name="1.png"), entry(6, file_name=...)),
    ]
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "cat"}, {"id": 3}]
    instances = [
        *(annotation(1), annotation(2, image_id=9), annotation(3, category_id=8)),
        *(annotation(4, segmentation="mask.png"), annotation(5, segmentation=[])),
    ]
    coco = content(*instances, images=images, categories=categories)
    with pytest.raises(UserError) as error:
        check(folder, coco, strict=True)
    first, *lines = str(error.value).split("\n")
    parts = [
        "1 of 6 images has no usable `id`",
        "1 image id is more than once in the list: 3",
        "1 of 5 annotations has an unknown image_id",
        "1 of 4 annotations has an unknown category_id",
        "1 of 3 categories has no name",
        "1 name is used twice",
        "1 of 6 images has no `file_name`",
        "1 of 6 image files are missing: 4.png",
        "1 image file cannot be used",
        "1 of 6 images contradict the files: image 2",
        "1 mask file not found: mask.png",
        "malformed 1 of 3 annotations: 1 x no segmentation (first: 5)",
    ]
    assert first == f"the data cannot be used, for {len(parts)} reasons:"
    assert len(lines) == len(parts)
    for line, part in zip(lines, parts, strict=True):
        assert line.startswith(f"  {folder / 'coco.json'}: ")
        assert part in line


def test_one_fault_is_one_line(folder):
    with pytest.raises(UserError) as error:
        check(folder, content(images=[entry(1), entry(7)]))
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"{folder / 'coco.json'}: 1 of 2 image files are missing")


def test_objects_of_images_with_faults_are_not_said_to_be_missing(folder):
    """Whether the file has instances to learn from is only known when the images are there."""
    coco = content(annotation(1, image_id=2), images=[entry(1), entry(2, width=99)])
    (fault,) = inspect_coco_json(*write(folder, coco)).faults
    assert "contradict the files" in fault


def test_an_image_without_a_size_or_a_file_hides_no_other_fault(folder):
    images = [entry(1), entry(7, width=...)]
    coco = content(annotation(1, image_id=7), annotation(2, segmentation=[]), images=images)
    file = inspect_coco_json(*write(folder, coco), strict=True)
    assert [image["id"] for image in file.content["images"]] == [1]
    assert file.image_paths == [str(folder / "1.png")]
    missing, malformed = file.faults
    assert "1 of 2 image files are missing: 7.png" in missing
    assert "malformed 1 of 1 annotations: 1 x no segmentation (first: 2)" in malformed


ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_file_in_any_unicode_form_is_read(folder, caplog, encoding):
    categories = [{"id": 1, "name": "вишня"}]
    checked = check(folder, content(annotation(6), categories=categories), encoding)
    assert list_classes(checked.content) == {1: "вишня"}
    # detectron2 and pycocotools read plain UTF-8 only, so a copy is written.
    assert checked.changed == (encoding != "utf-8")
    assert ("file was not plain UTF-8" in caplog.text) == checked.changed


def test_another_encoding_names_the_way_out(folder):
    with pytest.raises(UserError, match=r"neither UTF-8 nor UTF-16: .*\. Save the file as UTF-8"):
        check(folder, content(categories=[{"id": 1, "name": "Käse"}]), "latin-1")


def root_category(own: str = "parts", other: str = "parts") -> list[dict[str, Any]]:
    """Return the categories of an export that begins with a category for the others."""
    return [
        {"id": 0, "name": "parts", "supercategory": own},
        {"id": 1, "name": "bolt", "supercategory": "parts"},
        {"id": 2, "name": "nut", "supercategory": other},
    ]


@pytest.mark.parametrize(
    ("categories", "category_id", "kept"),
    [
        pytest.param(root_category("none"), 1, [1, 2], id="empty root"),
        pytest.param(root_category("none"), 0, [0, 1, 2], id="it has objects"),
        pytest.param(root_category("none"), "0", [0, 1, 2], id="it has objects, as text"),
        pytest.param(root_category("none", "tools"), 1, [0, 1, 2], id="not of all"),
        pytest.param(root_category()[:1], 0, [0], id="alone"),
        pytest.param(
            [{"id": 0, "name": "c"}, {"id": 1, "name": "c", "supercategory": "c"}], 1, [1],
            id="the name of its only class",
        ),
    ],
)  # fmt: skip
def test_a_category_that_only_groups_the_others_is_no_class(
    folder, caplog, categories, category_id, kept
):
    checked = check(folder, content(annotation(6, category_id=category_id), categories=categories))
    assert list(list_classes(checked.content)) == kept
    said = "1 x category without objects that only groups the others left out" in caplog.text
    assert said == (len(kept) < len(categories))


def test_a_pipe_is_no_json(tmp_path):
    os.mkfifo(tmp_path / "coco.json")
    with pytest.raises(UserError, match="expected a json file, got a pipe, socket or device"):
        check_coco_json(str(tmp_path / "coco.json"), str(tmp_path))


@pytest.mark.parametrize("where", ["image", "mask", "category"])
def test_a_message_shows_only_the_ends_of_a_long_name(folder, where):
    long = "a" * 50_000 + "z" * 50_000
    coco = content(annotation(6), images=[entry(1)])
    if where == "image":
        coco["images"][0]["file_name"] = long
    elif where == "mask":
        coco["annotations"][0]["segmentation"] = long
    else:
        coco["categories"] = [{"id": 1, "name": long}, {"id": 2, "name": long}]
    with pytest.raises(UserError, match=r"aaa\.\.\.zzz|aaa\.\.\.aaa|aaa\.\.\.z") as caught:
        check(folder, coco)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("mask", "advice"),
    [
        ({"points": [1, 2]}, "Export as COCO polygons or RLE"),
        ([[5, 5, 20, 5, 20, 9000, 5, 20]], "likely a typo: correct it"),
    ],
)
def test_dropped_annotations_come_with_advice(folder, caplog, mask, advice):
    check(folder, content(annotation(6), annotation(7, segmentation=mask), images=[entry(1)]))
    kind = "segmentation" if "points" in mask else "polygon"
    assert f"dropped 1 of 2 annotations: 1 x {kind}" in caplog.text
    assert advice in caplog.text


def test_a_json_that_is_a_link_to_nothing(folder):
    (folder / "gone.json").symlink_to(folder / "nothing.json")
    (fault,) = inspect_coco_json(str(folder / "gone.json"), str(folder)).faults
    assert (
        fault == f"json file {folder / 'gone.json'} is a link that leads to nothing or in a circle"
    )
