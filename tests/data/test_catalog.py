"""Is the data there? Named data sets, a COCO json and its images, and what is said when not."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.data.detection_utils import read_image
from PIL import Image

from mask_rcnn_ext.data import coco_json
from mask_rcnn_ext.data.catalog import require_dataset, require_datasets
from mask_rcnn_ext.data.coco_json import check_image_files, read_coco_json
from mask_rcnn_ext.errors import UserError


@pytest.fixture
def coco_sets(tmp_path, monkeypatch):
    """Register sets with relative paths, as detectron2 does when no root was set."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    names = ["absent_coco_train", "absent_coco_val"]
    for name in names:
        year = f"{name.split('_')[-1]}2017"
        json_file = f"datasets/coco/annotations/instances_{year}.json"
        register_coco_instances(name, {}, json_file, f"datasets/coco/{year}")
    yield names
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_an_unknown_name_gets_the_nearest_and_own_data():
    with pytest.raises(
        UserError, match="'coco_2017_trian'; did you mean 'coco_2017_train'"
    ) as info:
        require_dataset("coco_2017_trian")
    assert "--train-json F --train-images D --val-json F --val-images D" in str(info.value)
    assert "coco_2017_trian" not in MetadataCatalog


def test_coco_that_is_not_there(tmp_path, coco_sets):
    with pytest.raises(UserError) as info:
        require_dataset(coco_sets[0])
    message = str(info.value)
    for part in (
        f"  {tmp_path}/datasets/coco/annotations/instances_train2017.json\n",
        f"  {tmp_path}/datasets/coco/train2017\n",
        f"The root of data sets is {tmp_path}/datasets ($DETECTRON2_DATASETS is not set",
        "Put there coco/annotations/instances_train2017.json, coco/train2017/, or set",
        "--train-json F --train-images D --val-json F --val-images D",
        "--config-file configs/shapes/mask_rcnn_tiny_FPN.yaml, or `make demo`",
    ):
        assert part in message


def test_the_root_that_was_set_is_named(tmp_path, coco_sets, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", "./datasets/")
    with pytest.raises(UserError) as info:
        require_dataset(coco_sets[1])
    expected = f"{tmp_path}/datasets ($DETECTRON2_DATASETS is './datasets/')"
    assert expected in str(info.value)


def test_only_what_is_missing_is_named(tmp_path, coco_sets):
    (tmp_path / "datasets" / "coco" / "train2017").mkdir(parents=True)
    with pytest.raises(UserError) as info:
        require_datasets(coco_sets[:1])
    assert "train2017/" not in str(info.value)
    annotations = tmp_path / "datasets" / "coco" / "annotations"
    annotations.mkdir()
    (annotations / "instances_train2017.json").touch()
    require_dataset(coco_sets[0])


def test_several_make_one_message(coco_sets):
    train, val = coco_sets
    with pytest.raises(UserError) as info:
        require_datasets([train, "occluded_shapes_val", val, train, "cocoo"])
    message = str(info.value)
    assert f"the data of {train!r}, {val!r} is not there" in message
    assert "unknown data set 'cocoo'" in message
    assert message.count("instances_train2017.json\n") == 1
    assert message.count("To run without it") == 1


@pytest.mark.parametrize(
    "name",
    [
        "coco_2017_val",
        "coco_2017_val_panoptic",
        "coco_2017_val_panoptic_separated",
        "coco_2017_val_panoptic_stuffonly",
        "cityscapes_fine_sem_seg_val",
        "cityscapes_fine_panoptic_val",
        "ade20k_sem_seg_val",
        "voc_2007_trainval",
        "lvis_v1_val",
    ],
)
def test_every_kind_of_builtin_set(name):
    with pytest.raises(UserError, match=f"the data of '{name}' is not there"):
        require_dataset(name)


def test_sets_that_are_there(tmp_path):
    require_datasets(["occluded_shapes_train", "occluded_shapes_val"])  # drawn at first use
    (tmp_path / "a.json").touch()
    found = {"lookup_files": {"json_file": str(tmp_path / "a.json"), "image_root": tmp_path}}
    found["lookup_url"] = {"json_file": "https://example.org/a.json"}
    found["lookup_none"] = {"json_file": None}
    try:
        for name, metadata in found.items():
            DatasetCatalog.register(name, list)
            MetadataCatalog.get(name).set(**metadata)
        DatasetCatalog.register("lookup_bare", list)
        require_datasets([*found, "lookup_bare"])
        (tmp_path / "a.json").unlink()
        with pytest.raises(
            UserError, match=r"'lookup_files' is not there. Looked for:\n  .*a.json\nTo"
        ):
            require_datasets([*found, "lookup_bare"])
    finally:
        for name in (*found, "lookup_bare"):
            DatasetCatalog.pop(name, None)
            MetadataCatalog.pop(name, None)


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


@pytest.mark.parametrize(
    ("coco", "message"),
    [
        pytest.param('{"images": [],\n "x" 1}', "not json: .* line 2", id="not json"),
        pytest.param("[]", "expected a json object .* got a list", id="a list"),
        pytest.param(
            without("images"), "`images` to be a list of objects, got nothing", id="no images"
        ),
        pytest.param(without("annotations"), "`annotations` to be a list", id="no annotations"),
        pytest.param(without("categories"), "`categories` to be a list", id="no categories"),
        pytest.param({**content(), "images": {}}, "`images` .* got a dict", id="images no list"),
        pytest.param({**content(), "images": []}, "`images` is empty", id="images empty"),
        pytest.param(
            {**content(), "categories": []}, "`categories` is empty", id="categories empty"
        ),
        pytest.param(
            {**content(), "images": content()["images"] * 2},
            "2 image ids occur more than once: 1, 2",
            id="image ids twice",
        ),
        pytest.param(
            content(annotation(6), annotation(6)), "annotation ids occur .*: 6", id="ids twice"
        ),
        pytest.param(
            {**content(), "images": [{"id": "1", "file_name": "1.png"}]},
            "expected an integer `id`, got '1'",
            id="image id is a string",
        ),
        pytest.param(
            content(annotation(6, image_id=5)),
            r"annotation 6 has image_id 5, .*`images`; the nearest id there is 2 \(2.png\)",
            id="unknown image",
        ),
        pytest.param(
            content(annotation(6, category_id=4)),
            r"annotation 6 has category_id 4, .*`categories`; .* 3 \(dog\)",
            id="unknown category",
        ),
        pytest.param(content(annotation(6, image_id=...)), "image_id None", id="no image id"),
        pytest.param(
            {**content(), "categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]},
            "category ids occur more than once: 1",
            id="category ids twice",
        ),
    ],
)
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
    with pytest.raises(UserError, match=r"not readable as images: .*2.png"):
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


def test_a_spread_of_headers_is_read(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(coco_json, "HEADERS_CHECKED", 4)
    monkeypatch.setattr(coco_json, "_read_size", lambda path: (read.append(path), (7, 5, False))[1])
    images = [entry(i, width=7, height=5) for i in range(10)]
    for image in images:
        (tmp_path / image["file_name"]).touch()
    check(tmp_path, *images)
    assert [os.path.basename(path) for path in read] == ["0.png", "3.png", "6.png", "9.png"]
