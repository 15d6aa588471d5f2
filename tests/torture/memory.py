"""The memory of a long prediction and of a long evaluation, read while they are at work.

A small model finds 100 objects in every image, with masks that fill their boxes. The sizes of the
images to predict vary, from 50 to 2,000 pixels on each side.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.modeling import build_model
from PIL import Image
from support import SMALL, TINY_CONFIG, make_annotation
from trainings import Faults

from mask_rcnn_ext import load_config
from mask_rcnn_ext.files import write_json

ROOT = Path(__file__).resolve().parents[2]
_KEYS = [
    *SMALL, "MODEL.DEVICE", "cpu", "MODEL.ROI_HEADS.NUM_CLASSES", "2",
    "MODEL.RPN.NMS_THRESH", "1.0", "MODEL.RPN.POST_NMS_TOPK_TEST", "100",
    "MODEL.ROI_HEADS.NMS_THRESH_TEST", "1.0", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0",
]  # fmt: skip
_MOMENTS = 20  # of a curve
_GROWTH = 1.1  # of the second half over the first half


def measure_memory(
    predictions: int, images: int, root: Path, faults: Faults
) -> Iterator[dict[str, Any]]:
    """Yield what is measured so far, in megabytes: of the prediction, then of the evaluation too.

    Args:
        predictions: images to predict.
        images: images to evaluate.
        root: folder for the data.
        faults: gets a prediction or an evaluation whose memory grows.
    """
    rng, found = np.random.default_rng(0), {}
    model = ["--config-file", str(root / "model.yaml")]
    weights = _write_model(root)
    sides = np.exp(rng.uniform(np.log(50), np.log(2000), (predictions, 2))).astype(int)
    _draw_images(root / "photos", sides, rng)
    command = ["tools/predict.py", *model, "--weights", weights, "--no-pictures"]
    output = ["--score-threshold", "0", "--output", str(root / "predicted")]
    curve, _ = _watch([*command, *output, str(root / "photos")], root / "predict.txt")
    found["prediction"] = {
        "images": predictions,
        "detections": len(json.loads((root / "predicted/coco_instances_results.json").read_text())),
        "peak": max(curve),
        "curve": _thin(curve),
    }
    _judge("prediction", curve, faults)
    yield found

    sides = rng.integers(200, 640, (images, 2))
    truth = _draw_truth(root / "val", sides, rng)
    command = ["train_net.py", "--eval-only", *model, "--val-json", truth]
    output = ["OUTPUT_DIR", str(root / "evaluated")]
    curve, computing = _watch(
        [*command, "--val-images", str(root / "val"), "MODEL.WEIGHTS", weights, *output],
        root / "evaluate.txt",
        end="Total inference time",
    )
    (results,) = (root / "evaluated").glob("inference/*/coco_instances_results.json")
    count = len(json.loads(results.read_text()))
    _judge("evaluation", curve, faults)
    collecting = curve[len(curve) // 5 :]  # without the start
    found["evaluation"] = {
        "images": images,
        "detections": count,
        "result_file": round(results.stat().st_size / 1e6),
        "peak_of_metrics": max(computing),
        "peak_of_inference": max(curve),
        "curve": _thin(curve),
        "bytes_per_detection": round((collecting[-1] - collecting[0]) * 1e6 / (0.8 * count)),
    }
    yield found


def _judge(what: str, curve: list[int], faults: Faults) -> None:
    """Note a fault if the second half of a curve is higher than the first half."""
    whole = curve[len(curve) // 5 :]  # without the start
    first, second = whole[: len(whole) // 2], whole[len(whole) // 2 :]
    if max(second) > _GROWTH * max(first):
        faults.grown.append(f"{what}: from {max(first)} to {max(second)} MB")


def _write_model(root: Path) -> str:
    torch.manual_seed(0)
    cfg = load_config(TINY_CONFIG, _KEYS)
    weights = build_model(cfg).state_dict()
    for name, value in weights.items():
        if "mask_head.predictor" in name:
            value.fill_(5.0 if name.endswith("bias") else 0.0)  # masks that fill their boxes
    (root / "model.yaml").write_text(cfg.dump())
    torch.save({"model": weights}, root / "model.pth")
    return str(root / "model.pth")


def _draw_images(folder: Path, sides: Sequence[Any], rng: np.random.Generator) -> None:
    folder.mkdir()
    for number, (width, height) in enumerate(sides):
        cells = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        image = Image.fromarray(cells).resize((int(width), int(height)), Image.Resampling.BILINEAR)
        image.save(folder / f"{number:05d}.jpg")


def _draw_truth(folder: Path, sides: Sequence[Any], rng: np.random.Generator) -> str:
    """Draw images, and write an annotation file of seven rectangles in each."""
    _draw_images(folder, sides, rng)
    content: dict[str, Any] = {"images": [], "annotations": []}
    for number, (width, height) in enumerate(sides.tolist()):
        name = f"{number:05d}.jpg"
        image = {"id": number + 1, "file_name": name, "width": width, "height": height}
        content["images"].append(image)
        for _ in range(7):
            w, h = rng.integers(20, 100, 2).tolist()
            x, y = int(rng.integers(width - w)), int(rng.integers(height - h))
            category, known = int(rng.integers(1, 3)), content["annotations"]
            known.append(make_annotation(len(known) + 1, number + 1, category, (x, y, w, h)))
    content["categories"] = [{"id": number, "name": name} for number, name in ((1, "a"), (2, "b"))]
    path = folder.with_suffix(".json")
    write_json(path, content)
    return str(path)


def _watch(command: list[str], output: Path, end: str = "") -> tuple[list[int], list[int]]:
    """Run a command and return its memory in MB, twice a second: until it says `end`, and after.

    Raises:
        RuntimeError: it fails.
    """
    before, after = [], []
    with output.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, stdout=stream, stderr=subprocess.STDOUT
        )
        while process.poll() is None:
            pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
            ended = end and (after or end in output.read_text(errors="replace"))
            if pages:  # none is left at its end
                (after if ended else before).append(round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6))
            time.sleep(0.5)
    if process.returncode:
        raise RuntimeError(f"{command} failed, see {output}")
    return before, after


def _thin(curve: list[int]) -> list[int]:
    return [curve[place] for place in np.linspace(0, len(curve) - 1, _MOMENTS + 1).astype(int)]
