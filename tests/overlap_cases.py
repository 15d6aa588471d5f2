"""Hand-made masks, the detections of a model for them, and what is measured on them."""

import numpy as np
from reference.overlap import coco_of, dataset_of, rle

from mask_rcnn_ext.overlap.comparison import Detection, compute_metrics, measure
from mask_rcnn_ext.overlap.image_instances import read_image_instances
from mask_rcnn_ext.overlap.overlap_errors import measure_errors


def rectangle(x1, y1, x2, y2, size=(100, 100)):
    mask = np.zeros(size, dtype=bool)
    mask[y1:y2, x1:x2] = True
    return mask


# Two objects: the lower one is a square of 40. The upper one covers its right part, and the box of
# the lower one is the box of the whole square, as an amodal annotator would draw it: the boxes of
# 40 x 40 share 20 x 40, IoU 800 / 2400.
LOWER, UPPER = rectangle(20, 20, 40, 60), rectangle(40, 20, 80, 60)
OBJECTS = [{"mask": LOWER, "bbox": [20, 20, 40, 40]}, {"mask": UPPER}]


def detect(*masks, scores=(0.9, 0.8, 0.7, 0.6), category=1):
    """Return a detection with each mask."""
    return [
        Detection(category, score, rle(mask)) for mask, score in zip(masks, scores, strict=False)
    ]


def read_detections(results):
    """Return image id -> detections of the entries of a result file."""
    found = {}
    for entry in results:
        segmentation = entry["segmentation"]
        mask = {**segmentation, "counts": segmentation["counts"].encode()}
        detection = Detection(entry["category_id"], entry["score"], mask)
        found.setdefault(entry["image_id"], []).append(detection)
    return found


def metrics_of(images, detections):
    """Return the metrics: objects per image as in `dataset_of`, image id -> detections."""
    return compute_metrics(measure(coco_of(dataset_of(images)), detections))


def instances_of(objects, detections, size=(100, 100)):
    """Return the `ImageInstances` of one image."""
    return read_image_instances(coco_of(dataset_of([objects], size)), 1, {1: detections})


def errors_of(objects, detections, size=(100, 100)):
    """Return the `ImageErrors` of one image."""
    return measure_errors(instances_of(objects, detections, size))
