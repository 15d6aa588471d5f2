"""A run's folder with results and predictions, for the tests of its report; and its page."""

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from overlap_cases import rectangle
from PIL import Image
from reference.overlap import dataset_of

from mask_rcnn_ext.config import get_cfg

NAMES = ["disk & <b>bold</b>", "square"]
SIDE = 40


def write_data(folder, count, names=NAMES):
    """Write `count` images, each with an object of each class, ids 3 and 7, and the json."""
    first, second = (rectangle(*box, (SIDE, SIDE)) for box in ((2, 3, 12, 13), (20, 18, 36, 34)))
    objects = [{"mask": first, "category_id": 3}, {"mask": second, "category_id": 7}]
    content = dataset_of([objects] * count, (SIDE, SIDE), (3, 7))
    for annotation in content["annotations"]:
        annotation["image_id"] += 99
    for i, image in enumerate(content["images"]):
        image.update(id=100 + i, file_name=f"picture_{i:02d}.png")
        pixels = np.full((SIDE, SIDE, 3), 40 + i, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / image["file_name"])
    for category, name in zip(content["categories"], names, strict=True):
        category["name"] = name
    path = folder / "data.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path, content["annotations"]


def results(names=NAMES, **more):
    """Return the content of a run's results.json."""
    ap = {"AP": 55.87, "AP50": 83.21, "AP75": 60.0, "APs": 33.0, "APm": 61.0, "APl": None}
    ap.update({f"AP-{names[0]}": 70.04, f"AP-{names[1]}": None})
    run = {
        "train_seconds": 372.4,
        "eval_seconds": 9.1,
        "peak_memory_mb": 1834.2,
        "device": "a cpu",
        "seed": 5,
        "versions": {"torch": "9.8.7"},
    }
    return {"segm": ap, "bbox": {"AP": 52.3, "AP50": 80.0}, **more, "run": run}


def write_run(parent, names=NAMES):
    """Write a complete run on a user's own data: 9 images, with a sure and an unsure detection."""
    data_json, annotations = write_data(parent, 9, names)
    folder = parent / "run"
    (folder / "inference" / "own_val").mkdir(parents=True)
    cfg = get_cfg()
    data = cfg.MASK_RCNN_EXT.DATA
    data.TRAIN_JSON = data.VAL_JSON = str(data_json)
    data.TRAIN_IMAGES = data.VAL_IMAGES = str(parent)
    cfg.MASK_RCNN_EXT.CATEGORY_IDS, cfg.MASK_RCNN_EXT.CLASS_NAMES = [3, 7], list(names)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("own_train",), ("own_val",)
    cfg.SOLVER.BASE_LR = 0.0125
    (folder / "config.yaml").write_text(cfg.dump(), encoding="utf-8")
    lines = [
        {"iteration": 19, "total_loss": 3.0, "loss_mask": 0.7, "lr": 0.01},
        {"iteration": 39, "total_loss": 2.0, "loss_mask": 0.5, "lr": 0.01, "segm/AP": 41.0},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.json").write_text(text, encoding="utf-8")
    found = [
        {key: a[key] for key in ("image_id", "category_id", "bbox", "segmentation")}
        | {"score": 0.9 if a["category_id"] == 7 else 0.3}
        for a in annotations
    ]
    predictions = folder / "inference" / "own_val" / "coco_instances_results.json"
    predictions.write_text(json.dumps(found), encoding="utf-8")
    (folder / "results.json").write_text(json.dumps(results(names)), encoding="utf-8")
    return folder


class Page(HTMLParser):
    """The tags and the text of a page, without double spaces."""

    def __init__(self, path):
        super().__init__()
        self.source = Path(path).read_text(encoding="utf-8")
        self.tags, self.text = [], ""
        self.feed(self.source)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += " " + data

    def count(self, tag):
        return sum(name == tag for name, _ in self.tags)
