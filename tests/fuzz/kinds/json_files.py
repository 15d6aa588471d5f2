"""Annotations and results in COCO's format."""

import contextlib
import io
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
from fuzz.kinds.kind import Kind, copy_small_cfg
from fuzz.mutators import change_bytes, change_text, change_value
from PIL import Image
from pycocotools import mask as coco_mask
from support import make_annotation

from mask_rcnn_ext.data.own_data import register_own_data
from mask_rcnn_ext.overlap.comparison import compute_metrics, load_results, load_truth, measure
from mask_rcnn_ext.proposals.file import load_dicts

__all__ = ["CocoJson", "ResultJson"]

W, H = 16, 12  # pixels of the images


def make_coco() -> dict[str, Any]:
    """Return a COCO json with every form of mask, for the images that `CocoJson` writes."""
    mask = np.zeros((H, W), np.uint8, order="F")
    mask[2:8, 3:9] = 1
    packed = coco_mask.encode(mask)["counts"].decode("ascii")
    square = [[2, 2, 9, 2, 9, 8, 2, 8]]
    forms = [square, {"size": [H, W], "counts": packed}, {"size": [H, W], "counts": [26, 4, 162]}]
    forms += [[*square, [10, 9, 14, 9, 14, 11]], square, square]
    annotations = [
        make_annotation(i + 1, 1 + i % 3, 1 + 2 * (i % 2), (2, 2, 7, 6), segmentation=form)
        for i, form in enumerate(forms)
    ]
    annotations[2]["iscrowd"] = 1
    annotations[4]["keypoints"], annotations[4]["num_keypoints"] = [3, 3, 2, 0, 0, 0], 1
    return {
        "info": {},
        "images": [
            {"id": i, "file_name": f"{i}.png", "width": W, "height": H} for i in range(1, 4)
        ],
        "categories": [
            {"id": 1, "name": "cat", "keypoints": ["eye", "ear"], "skeleton": [[1, 2]]},
            {"id": 3, "name": "dog", "supercategory": "animal"},
        ],
        "annotations": annotations,
    }


def write_json(rng: random.Random, content: Any) -> bytes:
    """Return nested values as json, whose text is changed in every tenth case."""
    try:
        text = json.dumps(content, ensure_ascii=rng.random() < 0.5)
    except ValueError:  # more digits than Python writes
        text = repr(content)
    if rng.random() < 0.1:
        text = change_text(rng, text)
    data = text.encode("utf-8", "surrogatepass")
    return change_bytes(rng, data) if rng.random() < 0.05 else data


class CocoJson(Kind):
    """Annotations to train on, as `--train-json`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.content = make_coco()
        (folder / "images").mkdir()
        for image in self.content["images"]:
            Image.new("RGB", (W, H), "red").save(folder / "images" / image["file_name"])

    def make(self, rng: random.Random) -> tuple[str, bytes]:
        return ".json", write_json(rng, change_value(rng, self.content))

    def read(self, path: Path) -> None:
        images, clean = str(self.folder / "images"), str(self.folder / "clean")
        with contextlib.redirect_stdout(io.StringIO()):
            register_own_data(str(path), images, "", "", clean_dir=clean)
            load_dicts(copy_small_cfg(), "TRAIN", ["own_train"])


class ResultJson(Kind):
    """A model's results, compared with annotations; in every third case these are changed."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.truth = make_coco()
        self.results = [
            {
                "image_id": annotation["image_id"],
                "category_id": annotation["category_id"],
                "score": 0.9 - 0.1 * number,
                "bbox": annotation["bbox"],
                "segmentation": annotation["segmentation"],
            }
            for number, annotation in enumerate(self.truth["annotations"])
        ]
        self.good = {"truth": folder / "good_truth.json", "results": folder / "good_results.json"}
        for name, content in (("truth", self.truth), ("results", self.results)):
            self.good[name].write_text(json.dumps(content))

    def make(self, rng: random.Random) -> tuple[str, bytes]:
        if rng.random() < 0.3:
            return ".truth.json", write_json(rng, change_value(rng, self.truth))
        return ".json", write_json(rng, change_value(rng, self.results))

    def read(self, path: Path) -> None:
        changed_truth = path.name.endswith(".truth.json")
        truth = load_truth(path if changed_truth else self.good["truth"])
        results = self.good["results"] if changed_truth else path
        compute_metrics(measure(truth, load_results(results, truth)))
