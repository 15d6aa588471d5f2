"""Reports and previews of images with many objects: in little memory, with the same colours."""

import itertools
import subprocess
import sys

import make_report
import numpy as np
import pytest
from report_runs import write_run
from support import REPO

from mask_rcnn_ext.layers.packed_masks import MaskCrop, PackedMasks
from mask_rcnn_ext.report import gallery
from mask_rcnn_ext.report.instances import Annotated

_MANY = """
import resource, sys
sys.path.insert(0, "tools")
import preview_dataset
import numpy as np
from detectron2.data import DatasetCatalog
from detectron2.structures import BoxMode
from PIL import Image
from mask_rcnn_ext.report.gallery import choose_samples, draw_truth_and_prediction

boxes = [[x, y, 8, 8] for y in range(0, 1200, 16) for x in range(0, 1600, 16)]  # 7500
polygons = [[[x, y, x + w, y, x + w, y + h, x, y + h]] for x, y, w, h in boxes]
objects = [
    {"bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0, "segmentation": polygon}
    for box, polygon in zip(boxes, polygons)
]
found = [{**each, "score": 0.9} for each in objects[:1000]]
path = f"{sys.argv[1]}/image.png"
Image.new("RGB", (1600, 1200)).save(path)
record = {"file_name": path, "image_id": 1, "height": 1200, "width": 1600, "annotations": objects}
DatasetCatalog.register("many", lambda: [record])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
preview_dataset.draw_record(record, ["cell"], 240)
(sample,), problems = choose_samples("many", {1: found}, 1, 0.5)
assert problems == [] and len(sample.truth.masks) == 7500
draw_truth_and_prediction(sample, ["cell"], 600)
assert sample.colors == list(range(1000))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no module resource")
def test_7500_objects_of_an_image_take_little_memory(tmp_path):
    """As images of 1280 x 960 they take 9 GB."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _MANY, str(tmp_path)],
        capture_output=True, text=True, cwd=REPO, check=True,
    )  # fmt: skip
    assert int(done.stdout) < (400 if sys.platform != "darwin" else 400 * 1024)


def test_each_image_of_a_report_is_read_once(tmp_path, monkeypatch):
    """The nine images are in the sheet, and also among the worst and the best ones."""
    seen, read = [], gallery.read_picture
    monkeypatch.setattr(
        gallery, "read_picture", lambda record: seen.append(record["file_name"]) or read(record)
    )
    assert make_report.main([str(write_run(tmp_path))]) == 0
    assert len(seen) == len(set(seen)) == 9


def annotated(rng, number, *, masks) -> Annotated:
    """Return objects on a grid of ten pixels, moved a little; several may lie on one place."""
    corners = 10 * rng.integers(0, 8, (number, 2)) + rng.integers(0, 3, (number, 2))
    crops = [MaskCrop(int(y), int(x), np.ones((8, 8), dtype=bool)) for x, y in corners]
    packed = PackedMasks((90, 90), crops) if masks else None
    return Annotated(packed, np.hstack([corners, corners + 8]).astype(float), [0] * number)


@pytest.mark.parametrize(
    ("found", "expected", "masks"),
    [(300, 70, True), (40, 90, True), (70, 50, False), (5, 0, True), (0, 5, False)],
)
def test_each_prediction_takes_the_free_object_with_the_highest_iou(
    found, expected, masks, monkeypatch
):
    monkeypatch.setattr(gallery, "_AT_ONCE", 32)
    rng = np.random.default_rng(found)
    one, other = (annotated(rng, number, masks=masks) for number in (found, expected))
    free, spare, colors = set(range(expected)), itertools.count(expected), []
    for box in one.boxes:
        best, chosen = 0.5, None
        for index in sorted(free):
            sides = np.minimum(box[2:], other.boxes[index, 2:]) - np.maximum(
                box[:2], other.boxes[index, :2]
            )
            common = sides.clip(min=0).prod()
            iou = common / (2 * 64 - common)
            if iou > best or (chosen is None and iou == best):
                best, chosen = iou, index
        free.discard(chosen)
        colors.append(next(spare) if chosen is None else chosen)
    assert gallery._match_colors(one, other) == colors
