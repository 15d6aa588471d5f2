"""Slow, obvious versions of the overlap metrics, and small data sets made of masks.

Written from the definitions, pixel by pixel, in plain Python; masks are (H, W) bool arrays.
"""

import contextlib
import copy
import io
import itertools
import math

import numpy as np
from pycocotools import mask as mask_util
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

SIDE, CLASSES = 40, (1, 4)  # of `scenes`: pixels; category ids with a gap


def rle(mask: np.ndarray) -> dict:
    return mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))


def text_rle(mask: np.ndarray) -> dict:
    found = rle(mask)
    return {"size": [int(v) for v in found["size"]], "counts": found["counts"].decode()}


def tight_box(mask: np.ndarray) -> list[int]:
    """Return XYWH."""
    ys, xs = np.nonzero(mask)
    if not len(ys):
        return [0, 0, 0, 0]
    return [int(v) for v in (xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1)]


def dataset_of(images: list[list[dict]], size=(100, 100), categories=(1, 2)) -> dict:
    """Return a COCO data set; each object is {"mask", "category_id"=1, "bbox"=tight, "iscrowd"=0}.

    Image ids are 1, 2, ...
    """
    annotations = []
    for image_id, objects in enumerate(images, start=1):
        for entry in objects:
            mask = entry["mask"]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": entry.get("category_id", 1),
                    "bbox": entry.get("bbox", tight_box(mask)),
                    "area": int(mask.sum()),
                    "iscrowd": entry.get("iscrowd", 0),
                    "segmentation": text_rle(mask),
                }
            )
    return {
        "info": {},
        "images": [
            {"id": i, "height": size[0], "width": size[1], "file_name": f"{i}.png"}
            for i in range(1, len(images) + 1)
        ],
        "annotations": annotations,
        "categories": [{"id": c, "name": str(c)} for c in categories],
    }


def coco_of(dataset: dict) -> COCO:
    truth = COCO()
    truth.dataset = dataset
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
    return truth


def official_ap(dataset, results, task="segm", *, ious=None, areas=None) -> np.ndarray:
    """Return pycocotools' AP, AP50, AP75, and AP of small, medium and large objects, 0 to 100.

    NaN stands for an AP without objects. In "segm" a detection is as large as its mask, as in
    detectron2. `ious` replaces the IoUs; `areas` is (range, areas of objects, areas of detections).
    """
    results = [{k: v for k, v in r.items() if task != "segm" or k != "bbox"} for r in results]
    truth = coco_of(copy.deepcopy(dataset))
    with contextlib.redirect_stdout(io.StringIO()):
        found = truth.loadRes(copy.deepcopy(results))
        evaluation = COCOeval(truth, found, task)
        if areas:
            span, *by_part = areas
            for part, given in zip((truth, found), by_part, strict=True):
                for annotation, area in zip(part.dataset["annotations"], given, strict=True):
                    annotation["area"] = area
            evaluation.params.areaRng = [span] * 4
        if ious:
            evaluation.computeIoU = lambda image, category: ious(evaluation, image, category)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return np.where(evaluation.stats[:6] < 0, np.nan, 100 * evaluation.stats[:6])


def boundary(mask: np.ndarray, distance: int) -> np.ndarray:
    """Peel the mask `distance` times: a pixel goes when one of its 8 neighbours is outside."""
    height, width = mask.shape
    inner = mask.copy()
    for _ in range(distance):
        before = inner.copy()
        for y, x in zip(*np.nonzero(before), strict=True):
            for dy, dx in itertools.product((-1, 0, 1), repeat=2):
                v, u = y + dy, x + dx
                if not (0 <= v < height and 0 <= u < width) or not before[v, u]:
                    inner[y, x] = False
    return mask & ~inner


def boundary_iou(first: np.ndarray, second: np.ndarray, distance: int) -> float:
    a, b = boundary(first, distance), boundary(second, distance)
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 0.0


def cracks(mask: np.ndarray) -> set[tuple[float, float]]:
    """Return the midpoints of the sides between a pixel of the mask and another of the image."""
    height, width = mask.shape
    found = set()
    for y in range(height):
        for x in range(width):
            if x + 1 < width and mask[y, x] != mask[y, x + 1]:
                found.add((x + 1.0, y + 0.5))
            if y + 1 < height and mask[y, x] != mask[y + 1, x]:
                found.add((x + 0.5, y + 1.0))
    return found


def spurious_share(masks: list[np.ndarray], boxes: list, index: int, found: np.ndarray) -> float:
    """Return the spurious share of the contour of `found`, which is matched with `masks[index]`.

    Boxes are XYWH.
    """
    x, y, w, h = boxes[index]
    distance = max(2.0, 0.02 * math.hypot(w, h))
    truth = set().union(*(cracks(mask) for mask in masks))
    contour, spurious = cracks(found), 0
    for px, py in contour:
        contested = any(
            max(x, a) <= px <= min(x + w, a + c) and max(y, b) <= py <= min(y + h, b + d)
            for j, (a, b, c, d) in enumerate(boxes)
            if j != index and max(x, a) < min(x + w, a + c) and max(y, b) < min(y + h, b + d)
        )
        far = all(math.hypot(px - tx, py - ty) > distance for tx, ty in truth)
        spurious += contested and far
    return spurious / len(contour)


def error_values(masks: list[np.ndarray], boxes: list, found: dict[int, np.ndarray]) -> dict:
    """Return leak, miss and double claim of an image by the letter, as lists of shares.

    `found` has the prediction of each matched object; boxes are XYWH with whole numbers.
    """
    values: dict[str, list[float]] = {"leak": [], "miss": [], "double_claim": []}
    height, width = masks[0].shape
    rows, columns = np.mgrid[:height, :width]
    inside = [
        (columns >= x) & (columns < x + w) & (rows >= y) & (rows < y + h) for x, y, w, h in boxes
    ]
    everyone = range(len(masks))
    for i, prediction in found.items():
        ious = [
            (inside[i] & inside[j]).sum() / (inside[i] | inside[j]).sum()
            for j in everyone
            if j != i
        ]
        if max(ious, default=0) < 0.05:
            continue
        others = np.zeros_like(masks[0])
        contested = np.zeros_like(masks[0])
        for j in everyone:
            if j != i:
                others |= masks[j] & ~masks[i]
                contested |= inside[i] & inside[j]
        values["leak"].append((prediction & others).sum() / prediction.sum())
        region = masks[i] & contested
        if region.any():
            values["miss"].append((region & ~prediction).sum() / region.sum())
    for i, j in itertools.combinations(sorted(found), 2):
        if (inside[i] & inside[j]).any():
            a, b = found[i], found[j]
            values["double_claim"].append((a & b).sum() / (a | b).sum())
    return values


def ellipse(rng, side=SIDE):
    rows, columns = np.mgrid[:side, :side]
    cy, cx = rng.uniform(0.2 * side, 0.8 * side, 2)
    ry, rx = rng.uniform(0.1 * side, 0.3 * side, 2)
    return ((rows - cy) / ry) ** 2 + ((columns - cx) / rx) ** 2 < 1


def scenes(seed, images=8):
    """Return a data set of ellipses, with crowds and an empty image, and a model's results."""
    rng = np.random.default_rng(seed)
    objects, results = [], []
    for image in range(images):
        here = []
        for _ in range(0 if image == 2 else int(rng.integers(1, 7))):
            category, mask = CLASSES[int(rng.integers(2))], ellipse(rng)
            here.append({"mask": mask, "category_id": category})
            for _ in range(int(rng.integers(0, 3))):
                shift = rng.integers(-2, 3, 2)
                results.append((image + 1, category, np.roll(mask, shift, axis=(0, 1))))
        if image % 3 == 1:
            here[0]["iscrowd"] = 1
        objects.append(here)
        results.append((image + 1, CLASSES[int(rng.integers(2))], ellipse(rng)))
    found = [
        {
            "image_id": image,
            "category_id": category,
            # No two are equal: where they are, copies of an image are not the same as weights.
            "score": float(round((rng.integers(1, 30) + 0.001 * index) / 32, 6)),
            "segmentation": text_rle(mask),
        }
        for index, (image, category, mask) in enumerate(results)
    ]
    return dataset_of(objects, size=(SIDE, SIDE), categories=CLASSES), found
