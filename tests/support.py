"""Helpers of all tests: an offline, CPU-only, hermetic environment and small COCO data."""

import contextlib
import json
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

# Data sets are registered at import, so their root is set before anything imports the package.
# Worker processes of pytest-xdist inherit the variable and share what one of them has drawn.
_OWNER = "MASK_RCNN_EXT_TEST_DATASETS"
if _OWNER not in os.environ:
    os.environ[_OWNER] = os.environ["DETECTRON2_DATASETS"] = tempfile.mkdtemp(prefix="datasets-")
    CREATED_HERE = os.environ[_OWNER]
else:
    CREATED_HERE = ""
if os.environ.get("MASK_RCNN_EXT_TEST_GPU") != "1":  # results must not depend on the machine
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

REPO = Path(__file__).resolve().parents[1]


needs_search = pytest.mark.skipif(
    not hasattr(getattr(cv2, "ximgproc", None), "segmentation"),
    reason="this OpenCV has no selective search; opencv-contrib-python-headless has",
)


def make_annotation(number: int, image: int, category: int, box: Sequence, **other) -> dict:
    """Return an annotation in COCO's format: a box XYWH, whose mask is the whole box.

    Other keys may be given, also in place of these.
    """
    x, y, w, h = box
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": [x, y, w, h],
        "area": w * h,
        "iscrowd": 0,
        "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
        **other,
    }


@contextlib.contextmanager
def change_json(path: str | Path):
    """Yield the content of a JSON file, which the block changes, and write it back."""
    content = json.loads(Path(path).read_text())
    yield content
    Path(path).write_text(json.dumps(content))


def write_coco(folder: Path, *, images: int, seed: int = 0, size=(64, 48), classes=("cat", "dog")):
    """Write a COCO-format set of bright rectangles; return (json path, image folder).

    `size` is (width, height). Category ids have a gap: 3, 10, 17, ... Class c has its own colour.
    """
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "images").mkdir(exist_ok=True)
    width, height = size
    coco = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 3 + 7 * i, "name": name} for i, name in enumerate(classes)],
    }
    for index in range(images):
        pixels = rng.integers(0, 60, (height, width, 3), dtype=np.uint8)
        for _ in range(2):
            label = int(rng.integers(len(classes)))
            w, h = (int(v) for v in rng.integers(12, 24, 2))
            x, y = int(rng.integers(0, width - w)), int(rng.integers(0, height - h))
            pixels[y : y + h, x : x + w, label % 3] = 220
            number = len(coco["annotations"]) + 1
            entry = make_annotation(number, index + 1, 3 + 7 * label, (x, y, w, h))
            coco["annotations"].append(entry)
        name = f"{index:03d}.png"
        Image.fromarray(pixels).save(folder / "images" / name)
        coco["images"].append(
            {"id": index + 1, "file_name": name, "width": width, "height": height}
        )
    path = folder / "annotations.json"
    path.write_text(json.dumps(coco))
    return path, folder / "images"


def register_json(name: str, path: Path, content: dict) -> dict:
    """Write a COCO data set, and register what evaluators ask for; return category id -> class."""
    from detectron2.data import MetadataCatalog

    path.write_text(json.dumps(content))
    labels = {category["id"]: place for place, category in enumerate(content["categories"])}
    MetadataCatalog.pop(name, None)
    MetadataCatalog.get(name).set(
        json_file=str(path),
        thing_classes=[category["name"] for category in content["categories"]],
        thing_dataset_id_to_contiguous_id=labels,
    )
    return labels


def mask_config(*overrides: str):
    """Return the config of a model with masks."""
    from mask_rcnn_ext import get_cfg

    cfg = get_cfg()
    cfg.MODEL.MASK_ON = True
    cfg.merge_from_list(list(overrides))
    return cfg


def name_files(split: str, path: str | Path, images: str | Path) -> list[str]:
    """Return the flags that name the json and the images of a split, "train" or "val"."""
    return [f"--{split}-json", str(path), f"--{split}-images", str(images)]


# The smallest model that has every part: one FPN level for the RoI heads, few channels.
SMALL = [
    "MASK_RCNN_EXT.TINY_RESNET.STEM_CHANNELS", "8",
    "MASK_RCNN_EXT.TINY_RESNET.CHANNELS", "[8, 16, 24, 32]",
    "MASK_RCNN_EXT.TINY_RESNET.BLOCKS", "[1, 1, 1, 1]",
    "MODEL.FPN.OUT_CHANNELS", "16",
    "MODEL.ROI_BOX_HEAD.FC_DIM", "32",
    "MODEL.ROI_MASK_HEAD.CONV_DIM", "16",
    "MODEL.ROI_MASK_HEAD.NUM_CONV", "1",
    "INPUT.MIN_SIZE_TRAIN", "(64,)",
    "INPUT.MIN_SIZE_TEST", "64",
    "SOLVER.IMS_PER_BATCH", "4",
    "SOLVER.BASE_LR", "0.002",
    "SOLVER.WARMUP_ITERS", "2",
    "DATALOADER.NUM_WORKERS", "0",
    "TEST.EVAL_PERIOD", "0",
]  # fmt: skip
TINY_CONFIG = str(REPO / "configs/shapes/mask_rcnn_tiny_FPN.yaml")


def run_python(*words: str | Path, **options) -> subprocess.CompletedProcess:
    """Run Python with some arguments, in a process of its own; return what it printed.

    The options are those of `subprocess.run`.
    """
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, **options)


@contextlib.contextmanager
def reset_determinism():
    """Undo what the block sets with `torch.use_deterministic_algorithms`."""
    import torch

    deterministic = torch.are_deterministic_algorithms_enabled()
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(deterministic)


def run_train_net(*arguments: str) -> int:
    """Run `train_net.py` in this process as the command line would; return its exit code."""
    from mask_rcnn_ext import argument_parser, launch, run_as_command, run_job

    args = argument_parser().parse_args(list(arguments))
    with reset_determinism():
        return run_as_command(lambda: launch(run_job, args))


def run_script(path: Path, monkeypatch, *arguments: str) -> int:
    """Run a script in this process as the command line would; return its exit code."""
    monkeypatch.setattr(sys, "argv", [str(path), *arguments])
    with reset_determinism(), pytest.raises(SystemExit) as end:
        runpy.run_path(str(path), run_name="__main__")
    return end.value.code
