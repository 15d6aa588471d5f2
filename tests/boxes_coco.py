"""Random rectangles as a COCO data set, and predictions for them."""

from support import make_annotation

SIDE, CLASSES = 60, (1, 4)  # pixels; category ids with a gap


def box(rng):
    w, h = (int(v) for v in rng.integers(8, 30, 2))
    return [int(rng.integers(0, SIDE - w)), int(rng.integers(0, SIDE - h)), w, h]


def truth_json(rng):
    """Return 12 images of rectangles in COCO format; the second is empty, one object is a crowd."""
    annotations = []
    for image in range(1, 13):
        for _ in range(0 if image == 2 else int(rng.integers(1, 5))):
            place, category = box(rng), CLASSES[int(rng.integers(2))]
            annotations.append(make_annotation(len(annotations) + 1, image, category, place))
    annotations[3]["iscrowd"] = 1
    annotations[3]["segmentation"] = {"size": [SIDE, SIDE], "counts": [0, 900, SIDE * SIDE - 900]}
    return {
        "images": [{"id": i, "width": SIDE, "height": SIDE} for i in range(1, 13)],
        "annotations": annotations,
        "categories": [{"id": c, "name": str(c)} for c in CLASSES],
        "info": {},
    }


def predictions_of(truth, rng, jitter):
    """Return shifted boxes of the objects and some invented ones; scores have ties."""
    found = []
    for object_ in truth["annotations"]:
        x, y, w, h = object_["bbox"]
        for _ in range(int(rng.integers(0, 3))):
            dx, dy = rng.normal(0, jitter, 2)
            found.append((object_["image_id"], object_["category_id"], [x + dx, y + dy, w, h]))
    for image in truth["images"]:
        found.append((image["id"], CLASSES[int(rng.integers(2))], box(rng)))
    return [
        {
            "image_id": image,
            "category_id": category,
            "bbox": [float(v) for v in xywh],
            "score": float(rng.integers(1, 8)) / 8,
            "segmentation": [polygon(xywh)],
        }
        for image, category, xywh in found
    ]


def as_rle(truth, results):
    """Give results RLE masks, as detectron2 writes them."""
    from pycocotools import mask as mask_util

    for result in results:
        rle = mask_util.merge(mask_util.frPyObjects(result["segmentation"], SIDE, SIDE))
        result["segmentation"] = {"size": rle["size"], "counts": rle["counts"].decode("ascii")}
    return results


def polygon(xywh):
    x, y, w, h = (float(v) for v in xywh)
    return [x, y, x + w, y, x + w, y + h, x, y + h]
