"""Data sets for the tests of formats: images on the disk, and their objects as COCO json."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from mask_rcnn_ext.data.coco_json import list_classes
from mask_rcnn_ext.data.findings import IssueCounter
from mask_rcnn_ext.data.formats import Dataset, read_dataset, write_dataset
from mask_rcnn_ext.data.formats.dataset import decode_mask, iterate
from mask_rcnn_ext.layers.rle import encode_mask

W, H = 40, 30  # pixels


def save_image(path, size=(W, H)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (90, 60, 30)).save(path)


def ring():
    """Return a mask with a hole, and a pixel that touches it at a corner only."""
    mask = np.zeros((H, W), dtype=bool)
    mask[2:12, 3:13] = True
    mask[5:9, 6:10] = False
    mask[12, 13] = True
    return mask


POLYGON = [20.3, 2.6, 34.7, 2.2, 34.1, 16.9, 25.5, 9.1]
TWO_PARTS = [[20, 18, 26, 18, 26, 24, 20, 24], [30, 20, 36.5, 20, 36.5, 26, 30, 26]]
CROSSING = [[1, 14, 9, 14, 9, 20, 1, 20], [5, 16, 14, 16, 14, 28, 5, 28]]  # their union is meant
CROWD = [[20, 26, 29, 26, 29, 30, 20, 30]]


def whole_objects(tmp_path, crowd=True) -> Dataset:
    """Return two images with every kind of object, in a folder with odd names.

    The classes are not in the order of the alphabet, and one has no object.
    """
    root = tmp_path / "bilder"
    names = ["ein Bild.png", "写真/é 2.png", "leer.png"]
    for name in names:
        save_image(root / name)
    kinds = [
        (1, 3, encode_mask(ring()), 0),
        (1, 5, [POLYGON], 0),
        (1, 5, TWO_PARTS, 0),
        (2, 3, CROSSING, 0),
        (2, 5, [POLYGON], 0),
        *([(2, 5, CROWD, 1)] if crowd else []),
    ]
    annotations = []
    for number, (image, category, segmentation, is_crowd) in enumerate(kinds, 1):
        mask = decode_mask({"segmentation": segmentation}, H, W)
        rows, columns = np.nonzero(mask)
        box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
        annotations.append(
            {
                "id": number,
                "image_id": image,
                "category_id": category,
                "segmentation": segmentation,
                "iscrowd": is_crowd,
                "area": int(mask.sum()),
                "bbox": [int(v) for v in box],
            }
        )
    content = {
        "info": {},
        "images": [
            {"id": i, "file_name": name, "width": W, "height": H} for i, name in enumerate(names, 1)
        ],
        "annotations": annotations,
        "categories": [
            {"id": 3, "name": "zebra"},
            {"id": 5, "name": "ape"},
            {"id": 9, "name": "猫"},
        ],
    }
    return Dataset({"": content}, str(root))


def read(path, name, images=None):
    """Return the data set and what was counted: kind -> number."""
    notes = IssueCounter()
    dataset = read_dataset(path, name, images, notes)
    return dataset, {kind: len(found) for kind, found in notes.issues.items()}


def objects_of(content):
    """Return for the end of each image's name: its (class, crowd, mask), crowds last."""
    names = {c["id"]: c["name"] for c in content["categories"]}
    found = {}
    for image, annotations in iterate(content):
        key = Path(image["file_name"]).name.rpartition("_")[2]
        found[key] = [
            (names[a["category_id"]], a["iscrowd"], decode_mask(a, image["height"], image["width"]))
            for a in annotations
        ]
    return found


def only(dataset):
    """Return the content of a data set without splits."""
    assert list(dataset.splits) == [""]
    return dataset.splits[""]


def masks_of(dataset):
    """Return the masks of a data set without splits, in the order of its annotations."""
    content = only(dataset)
    sizes = {i["id"]: (i["height"], i["width"]) for i in content["images"]}
    return [decode_mask(a, *sizes[a["image_id"]]) for a in content["annotations"]]


def write_dataset_to(tmp_path, name):
    """Write `whole_objects` and return the json of its first image."""
    write_dataset(whole_objects(tmp_path), name, tmp_path / "out")
    return json.loads((tmp_path / "out" / "ein Bild.json").read_text(encoding="utf-8"))


def classes_of(dataset):
    return list(list_classes(next(iter(dataset.splits.values()))).values())


def write_json(path, content, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False), **{"encoding": "utf-8", **options})
    return path
