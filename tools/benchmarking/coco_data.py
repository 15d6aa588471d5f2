"""A drawn data set as large as COCO's val2017, with detections: json only, without images."""

from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as mask_util

from mask_rcnn_ext.arrays import Floats

__all__ = ["CocoData", "make_coco_data"]

HEIGHT, WIDTH, CLASSES, KEYPOINTS = 480, 640, 80, 17
OBJECTS, DETECTIONS = 7, 36  # per image, on average; val2017 has 7.3 objects in an image
_CROWDS = 0.01  # share of the objects that stand for a crowd
_FOUND = 0.4  # share of the detections that lie on an object


class CocoData(NamedTuple):
    """A data set and the detections of a model in it.

    Attributes:
        content: in COCO's format.
        predictions: what `COCOEvaluator.process` keeps: an entry for each image, with `instances`
            in COCO's format of results, whose classes count from 0.
    """

    content: dict[str, Any]
    predictions: list[dict[str, Any]]


def make_coco_data(images: int, seed: int, keypoints: bool = False) -> CocoData:
    """Draw a data set with boxes and masks (polygons), or with boxes and keypoints.

    Args:
        images: the number of images; there are 7 objects and 36 detections for each.
        seed: equal seeds give equal data.
        keypoints: all objects are persons, with 17 keypoints in place of masks.
    """
    rng = np.random.default_rng(seed)
    classes = 1 if keypoints else CLASSES
    places = np.sort(rng.integers(images, size=OBJECTS * images))
    boxes, labels = _draw_boxes(rng, len(places)), rng.integers(classes, size=len(places))
    annotations = []
    for number, (box, place, label) in enumerate(zip(boxes, places, labels, strict=True)):
        crowd = bool(rng.random() < _CROWDS)
        entry = {"id": number + 1, "image_id": int(place) + 1, "category_id": int(label) + 1}
        entry |= {"bbox": box.tolist(), "iscrowd": int(crowd)}
        outline = _draw_outline(rng, box)
        rle = _encode(outline)
        entry |= {"area": float(mask_util.area(rle)), "segmentation": rle if crowd else [outline]}
        if keypoints:
            points = _draw_points(rng, box)
            points[points[:, 2] == 0] = 0
            entry |= {"keypoints": points.ravel().tolist()}
            entry |= {"num_keypoints": int((points[:, 2] > 0).sum())}
        annotations.append(entry)
    content = {
        "info": {},
        "images": [{"id": n + 1, "height": HEIGHT, "width": WIDTH} for n in range(images)],
        "categories": [{"id": n + 1, "name": f"class {n}"} for n in range(classes)],
        "annotations": annotations,
    }
    return CocoData(content, _draw_predictions(rng, images, annotations, classes))


def _draw_predictions(
    rng: np.random.Generator, images: int, objects: list[dict[str, Any]], classes: int
) -> list[dict[str, Any]]:
    found: list[list[dict[str, Any]]] = [[] for _ in range(images)]
    others = _draw_boxes(rng, DETECTIONS * images)
    for other in others:
        target = objects[rng.integers(len(objects))] if rng.random() < _FOUND else None
        box, place, label = other, int(rng.integers(images)), int(rng.integers(classes))
        if target is not None:
            box = _shake(rng, np.array(target["bbox"]))
            place, label = target["image_id"] - 1, target["category_id"] - 1
        entry = {"image_id": place + 1, "category_id": label, "bbox": box.tolist()}
        entry["score"] = float(np.float32(rng.beta(2, 3) if target else rng.beta(1, 6)))
        if "keypoints" in objects[0]:
            points = _draw_points(rng, box)
            if target is not None:
                noise = rng.normal(0, 0.05, (KEYPOINTS, 3)) * [box[2], box[3], 0]
                points = np.reshape(target["keypoints"], (KEYPOINTS, 3)) + noise
            entry["keypoints"] = points.astype(np.float32).ravel().tolist()
        else:
            entry["segmentation"] = _encode(_draw_outline(rng, box))
        found[place].append(entry)
    return [{"image_id": n + 1, "instances": each} for n, each in enumerate(found)]


def _draw_boxes(rng: np.random.Generator, count: int) -> Floats:
    """Return boxes (count, 4) as x, y, width, height, with sides of 6 to 400 pixels."""
    sides = 6 * (400 / 6) ** rng.random((count, 2))
    return np.concatenate([rng.random((count, 2)) * ([WIDTH, HEIGHT] - sides), sides], axis=1)


def _shake(rng: np.random.Generator, box: Floats) -> Floats:
    """Return a box near another one, in the image."""
    low = box[:2] + rng.normal(0, 0.06, 2) * box[2:]
    high = box[:2] + box[2:] * (1 + rng.normal(0, 0.06, 2))
    low = low.clip(0, [WIDTH - 2, HEIGHT - 2])
    return np.concatenate([low, np.minimum(high, [WIDTH, HEIGHT]).clip(low + 2) - low])


def _draw_outline(rng: np.random.Generator, box: Floats) -> list[float]:
    """Return a bumpy ellipse in a box, as a polygon x, y, x, y, ... of 24 points."""
    angles = np.arange(24) * (2 * np.pi / 24)
    radii = 0.5 * (1 - 0.15 * rng.random(24))
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None] + 0.5
    return np.round(box[:2] + points * box[2:], 2).ravel().tolist()


def _draw_points(rng: np.random.Generator, box: Floats) -> Floats:
    """Return (17, 3): x, y and visibility of points in a box."""
    points = box[:2] + rng.random((KEYPOINTS, 2)) * box[2:]
    return np.concatenate([np.round(points, 1), rng.integers(0, 3, (KEYPOINTS, 1))], axis=1)


def _encode(outline: list[float]) -> dict[str, Any]:
    rle = mask_util.frPyObjects([outline], HEIGHT, WIDTH)[0]
    return {"size": [HEIGHT, WIDTH], "counts": rle["counts"].decode("ascii")}
