"""Small data sets of boxes with the detections of a model, for the tests of the analysis."""

from mask_rcnn_ext.overlap.analysis.image_pairs import group_by_image, read_image_pairs
from mask_rcnn_ext.overlap.analysis.tables import match_all

CATEGORIES = (3, 7, 12)  # the ids of classes 0, 1, 2


def box_data(*images):
    """Return the content of a json and a list of results.

    Each image is (objects, detections); an object is (class, XYWH) or (class, XYWH, "crowd"), a
    detection (class, score, XYWH).
    """
    annotations, results = [], []
    for image_id, (objects, detections) in enumerate(images, start=1):
        for label, box, *crowd in objects:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": CATEGORIES[label],
                    "bbox": list(box),
                    "area": box[2] * box[3],
                    "iscrowd": len(crowd),
                }
            )
        for label, score, box in detections:
            entry = {"image_id": image_id, "category_id": CATEGORIES[label]}
            results.append({**entry, "score": score, "bbox": list(box)})
    content = {
        "images": [
            {"id": i, "height": 400, "width": 400, "file_name": f"{i}.png"}
            for i in range(1, len(images) + 1)
        ],
        "annotations": annotations,
        "categories": [{"id": c, "name": f"class {c}"} for c in CATEGORIES],
    }
    return content, results


def pairs_of(*images):
    """Return the images of `box_data` as pairs, and what their detections match."""
    content, results = box_data(*images)
    found = read_image_pairs(content, group_by_image(results), "bbox")
    return found, match_all(found)
