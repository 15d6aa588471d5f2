"""Small COCO jsons for the tests of what is read, refused and corrected. Images are 40 x 30."""

from typing import Any

W, H = 40, 30  # pixels


def entry(number: int, **changes: Any) -> dict[str, Any]:
    """Return an image; `...` as a value leaves the key out."""
    sizes = {"file_name": f"{number}.png", "width": W, "height": H}
    return {k: v for k, v in {"id": number, **sizes, **changes}.items() if v is not ...}


def annotation(number: int, **changes: Any) -> dict[str, Any]:
    """Return an instance in image 1; `...` as a value leaves the key out."""
    square = [[10, 10, 20, 10, 20, 20, 10, 20]]
    mask = {"bbox": [10, 10, 10, 10], "area": 100.0, "iscrowd": 0, "segmentation": square}
    keys = {"id": number, "image_id": 1, "category_id": 1, **mask, **changes}
    return {k: v for k, v in keys.items() if v is not ...}


def content(*annotations: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return a json with the images 1 and 2 and the categories 1 (cat) and 3 (dog)."""
    return {
        "info": {},
        "images": [entry(1), entry(2)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 3, "name": "dog"}],
        "annotations": list(annotations) or [annotation(6)],
        **changes,
    }
