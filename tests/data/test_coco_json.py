"""A COCO json and its image files: what is refused, and which sizes are filled in."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from detectron2.data.detection_utils import read_image
from PIL import Image

from mask_rcnn_ext.data import coco_json
from mask_rcnn_ext.data.coco_json import check_image_files, read_coco_json
from mask_rcnn_ext.data.images import ImageHeader
from mask_rcnn_ext.errors import UserError

W, H = 40, 30  # pixels


def entry(number: int, **changes: Any) -> dict[str, Any]:
    sizes = {"file_name": f"{number}.png", "width": W, "height": H}
    return {k: v for k, v in {"id": number, **sizes, **changes}.items() if v is not ...}


def annotation(number: int, **changes: Any) -> dict[str, Any]:
    ann = {"id": number, "image_id": 1, "category_id": 1, **changes}
    return {k: v for k, v in ann.items() if v is not ...}


def content(*annotations: dict[str, Any]) -> dict[str, Any]:
    return {
        "images": [entry(1), entry(2)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 3, "name": "dog"}],
        "annotations": list(annotations),
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in (1, 2):
        Image.new("RGB", (W, H)).save(tmp_path / f"{i}.png")
    return tmp_path


def check(folder: Path, *images: dict[str, Any]) -> list[int]:
    return check_image_files(list(images), str(folder), "f.json")


def without(key: str) -> dict[str, Any]:
    return {k: v for k, v in content().items() if k != key}


NOT_COCO = {  # name -> the json as text or as an object, a part of the error
    "not json": ('{"images": [],\n "x" 1}', "not json: .* line 2"),
    "a list": ("[]", "expected a json object .* got a list"),
    "no images": (without("images"), "`images` to be a list of objects, got nothing"),
    "no annotations": (without("annotations"), "`annotations` to be a list"),
    "no categories": (without("categories"), "`categories` to be a list"),
    "images no list": ({**content(), "images": {}}, "`images` .* got a dict"),
    "images empty": ({**content(), "images": []}, "`images` is empty"),
    "categories empty": ({**content(), "categories": []}, "`categories` is empty"),
    "image ids twice": (
        {**content(), "images": content()["images"] * 2},
        "2 image ids occur more than once: 1, 2",
    ),
    "ids twice": (content(annotation(6), annotation(6)), "annotation ids occur .*: 6"),
    "image id is a string": (
        {**content(), "images": [{"id": "1", "file_name": "1.png"}]},
        "expected an integer `id`, got '1'",
    ),
    "unknown image": (
        content(annotation(6, image_id=5)),
        r"annotation 6 has image_id 5, .*`images`; the nearest id there is 2 \(2.png\)",
    ),
    "unknown category": (
        content(annotation(6, category_id=4)),
        r"annotation 6 has category_id 4, .*`categories`; .* 3 \(dog\)",
    ),
    "no image id": (content(annotation(6, image_id=...)), "image_id None"),
    "category ids twice": (
        {**content(), "categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]},
        "category ids occur more than once: 1",
    ),
}


@pytest.mark.parametrize(("coco", "message"), NOT_COCO.values(), ids=NOT_COCO)
def test_a_file_that_is_not_coco_is_refused(tmp_path, coco, message):
    path = tmp_path / "coco.json"
    path.write_text(coco if isinstance(coco, str) else json.dumps(coco))
    with pytest.raises(UserError, match=message):
        read_coco_json(str(path))


def test_a_missing_json_names_the_nearest(tmp_path):
    (tmp_path / "coco.json").touch()
    with pytest.raises(UserError, match=r"not found: .*cocoo.json; did you mean 'coco.json'"):
        read_coco_json(str(tmp_path / "cocoo.json"))


def test_image_files_that_are_missing(folder):
    images = [entry(1), entry(2)] + [entry(i, file_name=f"sub/{i}.png") for i in range(3, 10)]
    expected = r"f.json: 7 of 9 image files are missing: .*3.png, .*7.png and 2 more.* holds 1.png"
    with pytest.raises(UserError, match=expected):
        check(folder, *images)
    with pytest.raises(UserError, match=r"image folder not found: .*nowhere \(for f.json\)"):
        check(folder / "nowhere", entry(1))
    with pytest.raises(UserError, match="image 1 has no `file_name`"):
        check(folder, entry(1, file_name=...))


def test_images_in_sub_folders_are_found_and_sizes_filled_in(folder):
    (folder / "sub").mkdir()
    Image.new("L", (7, 5)).save(folder / "sub" / "3.png")
    image = entry(3, file_name="sub/3.png", width=None, height=...)
    assert check(folder, entry(1), image) == [3]
    assert image == {"id": 3, "file_name": "sub/3.png", "width": 7, "height": 5}


def test_a_size_that_contradicts_the_file(folder):
    swapped = entry(2, width=H, height=W)
    expected = r"image 2 \(2.png\) is 30 x 40 in the json, the file is 40 x 30\. "
    with pytest.raises(UserError, match=expected):
        check(folder, entry(1), swapped)
    assert check(folder, entry(1, width=float(W))) == []
    (folder / "2.png").write_text("no image")
    with pytest.raises(UserError, match=r"1 of its image files cannot be used: .*2\.png: cannot"):
        check(folder, entry(1), swapped)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_sizes_are_those_after_exif_orientation(folder, suffix):
    exif = Image.Exif()
    exif[0x0112] = 6
    name = f"turned.{suffix}"
    Image.new("RGB", (W, H)).save(folder / name, exif=exif)
    assert check(folder, entry(1, file_name=name, width=H, height=W)) == []
    with pytest.raises(
        UserError, match=r"40 x 30 in the json, the file is 30 x 40, after its EXIF"
    ):
        check(folder, entry(1, file_name=name))
    image = entry(1, file_name=name, width=0)
    assert check(folder, image) == [1]
    assert (image["width"], image["height"]) == read_image(str(folder / name)).shape[1::-1]


def test_images_that_cannot_be_used_are_all_named(folder):
    for name in ("1.png", "2.png"):
        Image.new("I;16", (W, H)).save(folder / name)
    expected = (
        r"2 of its image files cannot be used: .*1\.png: has more than 8 bits.*others: 2\.png"
    )
    with pytest.raises(UserError, match=expected):
        check(folder, entry(1), entry(2))


def test_a_file_with_several_pages_is_told(folder, caplog):
    pages = [Image.new("RGB", (W, H))] * 3
    pages[0].save(folder / "3.tif", save_all=True, append_images=pages[1:])
    check(folder, entry(1), entry(3, file_name="3.tif"))
    assert "only the first of several frames or pages is read of 3.tif (3)" in caplog.text


def test_a_spread_of_headers_is_read(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(coco_json, "HEADERS_CHECKED", 4)
    header = ImageHeader(7, 5, False, 1)
    monkeypatch.setattr(coco_json, "read_header", lambda path: read.append(path) or header)
    images = [entry(i, width=7, height=5) for i in range(10)]
    for image in images:
        (tmp_path / image["file_name"]).touch()
    check(tmp_path, *images)
    assert [os.path.basename(path) for path in read] == ["0.png", "3.png", "6.png", "9.png"]
