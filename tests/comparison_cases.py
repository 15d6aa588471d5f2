"""A small data set with overlapping objects, and the result files of models for it."""

import json

import numpy as np
from PIL import Image
from reference.overlap import dataset_of, text_rle

SIDE = 80
CATEGORIES = (3, 10)


def disc(x, y, radius):
    rows, columns = np.mgrid[:SIDE, :SIDE]
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


def scene(index):
    """Return the two objects of an image: far apart when `index` is odd, else one in front."""
    first, second = disc(26, 30, 16), disc(60, 60, 15) if index % 2 else disc(35, 39, 15)
    return [first & ~second, second]


def cut(masks):
    """Return the masks of a model that gives what is above a straight line to the first object."""
    above = masks[1] & (np.arange(SIDE) < 35)[:, None]
    return [masks[0] | above, masks[1] & ~above]


def detections(images, predict, score=0.9):
    return [
        {
            "image_id": image,
            "category_id": CATEGORIES[0],
            "score": score - 0.01 * index,
            "segmentation": text_rle(mask),
        }
        for image in images
        for index, mask in enumerate(predict(scene(image)))
    ]


def write_pair(folder):
    """Write six images, their annotations, and results of an exact, a cutting and a blind model."""
    (folder / "images").mkdir()
    for image in range(1, 7):
        pixels = np.full((SIDE, SIDE, 3), 60, dtype=np.uint8)
        for index, mask in enumerate(scene(image)):
            pixels[mask] = 60 + 40 * (2 * (image - 1) + index) % 150
        Image.fromarray(pixels).save(folder / "images" / f"{image}.png")
    objects = [
        [{"mask": mask, "category_id": CATEGORIES[0]} for mask in scene(image)]
        for image in range(1, 7)
    ]
    files = {
        "truth.json": dataset_of(objects, (SIDE, SIDE), CATEGORIES),
        "exact.json": detections(range(1, 7), lambda masks: masks),
        "cut.json": detections(range(1, 7), cut),
        "none.json": [],
    }
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value))
