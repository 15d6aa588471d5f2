"""Images of object numbers: a file for each image, Cityscapes' files, and binary masks.

Pixel values are numbers, not colours: 0 is background, and all pixels with the same value are an
object.
"""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...errors import UserError
from ...layers.rle import compress, count_pixels, decode_runs, read_runs
from ..findings import IssueCounter
from ..images import IMAGE_SUFFIXES, is_hidden, open_image
from .dataset import (
    Dataset,
    DatasetBuilder,
    Ids,
    cut_objects,
    iterate,
)
from .files import flat_names, index_images, list_files, require_images

__all__ = [
    "draw_objects",
    "read_cityscapes",
    "read_dsb",
    "read_id_images",
    "read_ids",
    "write_id_images",
]

_CLASS = "object"
_MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif")
_FOLDERS = ("masks", "labels")
_MOST_IDS = 65535  # values of 16 bits

# https://github.com/mcordts/cityscapesScripts: the classes with instances that are evaluated.
_CITYSCAPES = {
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}
_PER_CLASS = 1000  # 26003 is car number 3; 26 is a group of cars


def read_ids(path: Path) -> Ids:
    """Return the numbers (H, W) of a file: grey values of any depth, or palette indices.

    Raises:
        UserError: the file cannot be read, has colours, or has values that are not whole.
    """
    with open_image(path) as (_, image):
        if getattr(image, "n_frames", 1) > 1:
            raise UserError(f"{path}: has several pages; expected one image of numbers")
        values = np.asarray(image)
    if values.ndim != 2:
        raise UserError(f"{path}: is a colour image; expected one channel of object numbers")
    ids: Ids = values.astype(np.int64)
    if (ids != values).any() or ids.min() < 0:
        raise UserError(f"{path}: expected whole numbers of at least 0")
    return ids


def read_id_images(source: Path, images: Path | None, notes: IssueCounter) -> Dataset:
    """Read a folder with a number image for each image; all objects have the same class.

    `source` holds the number images, or the folders `masks` and `images`. The images are in the
    folder `images` of `source`, or in `images`. A number image has the name of its image, or this
    name and an ending such as `_masks`.
    """
    inner = [source / name for name in _FOLDERS if (source / name).is_dir()]
    masks, root = (inner or [source])[0], images or source / "images"
    require_images(root)
    if masks.resolve() == root.resolve():  # as Cellpose writes them: each file would be an image
        raise UserError(
            f"{masks}: the images and the files of numbers are in one folder. Move the files of "
            "numbers into a folder of their own"
        )
    # The masks may lie in a folder of the images, or the images in a folder of the masks.
    files = [p for p in list_files(masks, _MASK_SUFFIXES) if root not in p.parents]
    pictures = index_images(root)
    builder = DatasetBuilder(root, notes, [_CLASS])
    lone, seen = 0, set()
    for file in files:
        key = _match(file.relative_to(masks).with_suffix("").as_posix(), pictures)
        if key is None:
            raise UserError(f"{file}: no image of this name in {root}")
        seen.add(pictures[key])
        name = str(pictures[key].relative_to(root))
        ids = read_ids(file)
        image = builder.add_image(name, str(file), size=ids.shape)
        found = list(cut_objects(ids))
        lone += len(found) == 1
        for value, _, mask in found:
            builder.add_object(image, _CLASS, f"{file}, value {value}", parts=[mask])
    if len(files) > 1 and lone == len(files):
        notes.add("file with one value: are they object numbers? Touching objects are one", "all")
    for path in sorted(set(pictures.values()) - seen):
        notes.add("image without a file of numbers: left out", path.name)
    return builder.finish(str(source))


def _match(name: str, pictures: dict[str, Path]) -> str | None:
    """Return the longest key that is `name`, or the part of `name` before one of "_-."."""
    ends = [i for i, letter in enumerate(name) if letter in "_-."]
    return next((name[:end] for end in [len(name), *ends[::-1]] if name[:end] in pictures), None)


def read_cityscapes(source: Path, images: Path | None, notes: IssueCounter) -> Dataset:
    """Read `gtFine/SPLIT/CITY/*_instanceIds.png` of the eight classes with instances.

    `source` holds `gtFine`. The images are in its folder `leftImg8bit`, or in `images`. A group of
    objects, whose number is only the number of the class, is a crowd region.
    """
    fine, root = source / "gtFine", images or source / "leftImg8bit"
    found = sorted(fine.glob("*/*/*_gtFine_instanceIds.png"))
    files = [path for path in found if not is_hidden(path)]
    if not files:
        raise UserError(f"{fine}: no SPLIT/CITY/*_gtFine_instanceIds.png found")
    require_images(root)
    builder = DatasetBuilder(root, notes, list(_CITYSCAPES.values()))
    for file in files:
        inside = file.relative_to(fine)
        stem = inside.name.removesuffix("_gtFine_instanceIds.png")
        name = str(inside.with_name(f"{stem}_leftImg8bit.png"))
        ids = read_ids(file)
        image = builder.add_image(name, str(file), split=inside.parts[0], size=ids.shape)
        for value, _, mask in cut_objects(ids):
            number = value if value < _PER_CLASS else value // _PER_CLASS
            if number in _CITYSCAPES:
                place, crowd = f"{file}, value {value}", value < _PER_CLASS
                builder.add_object(image, _CITYSCAPES[number], place, parts=[mask], crowd=crowd)
    return builder.finish(str(source))


def read_dsb(source: Path, images: Path | None, notes: IssueCounter) -> Dataset:
    """Read the 2018 Data Science Bowl's folders: `ID/images/ID.png`, and a mask for each object.

    `images` must be None, since the images lie next to their masks.
    """
    if images is not None:
        raise UserError("--images: in this format the images are next to their masks; leave it out")
    builder = DatasetBuilder(source, notes, [_CLASS])
    for folder in sorted(p for p in source.iterdir() if (p / "images").is_dir()):
        pictures = list_files(folder / "images", IMAGE_SUFFIXES)
        if len(pictures) != 1:
            raise UserError(f"{folder / 'images'}: expected one image, found {len(pictures)}")
        image = builder.add_image(str(pictures[0].relative_to(source)), str(folder))
        if not (folder / "masks").is_dir():
            notes.add("folder without masks: an image without objects", folder.name)
            continue
        for file in list_files(folder / "masks", _MASK_SUFFIXES):
            mask = read_ids(file) != 0
            if mask.shape != (image["height"], image["width"]):
                raise UserError(
                    f"{file}: is {mask.shape[1]} x {mask.shape[0]} pixels (width x height), its "
                    f"image {image['file_name']} is {image['width']} x {image['height']}"
                )
            builder.add_object(image, _CLASS, str(file), parts=[mask])
    return builder.finish(str(source))


def draw_objects(
    image: dict[str, Any], annotations: list[dict[str, Any]], most: int, notes: IssueCounter
) -> tuple[Ids, list[dict[str, Any]]]:
    """Return an image of the numbers 1, 2, ... and the annotation of each number.

    Where objects overlap, the smaller object is on top. `notes` counts what the image cannot hold:
    overlaps, hidden objects, boxes without masks, and all objects after the first `most`.
    """
    height, width = image["height"], image["width"]
    drawn: Ids = np.zeros((height, width), dtype=np.int64)
    masks: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for annotation in annotations:
        if annotation["iscrowd"]:
            continue
        if not annotation.get("segmentation"):
            notes.add("box without a mask: left out", annotation["id"])
        elif len(masks) == most:
            notes.add(f"more than {most} objects in an image: left out", annotation["id"])
        else:
            masks.append((annotation, compress(annotation["segmentation"], height, width)))
    areas = count_pixels([rle for _, rle in masks]).tolist()
    for i in sorted(range(len(masks)), key=lambda i: -areas[i]):
        runs = read_runs(masks[i][1]["counts"], height * width)
        top, left, mask = decode_runs(runs, height)
        drawn[top : top + mask.shape[0], left : left + mask.shape[1]][mask] = i + 1
    shown = np.bincount(drawn.ravel(), minlength=len(masks) + 1)[1:]
    for i, (annotation, _) in enumerate(masks):
        if shown[i] == 0:
            notes.add("object under others: lost", annotation["id"])
        elif shown[i] < areas[i]:
            notes.add("object that others overlap: loses pixels", annotation["id"])
    return drawn, [annotation for annotation, _ in masks]


def write_id_images(dataset: Dataset, folder: Path, notes: IssueCounter) -> None:
    """Write a PNG with 16 bits and the name of the image for each image.

    Each split gets a folder. The files hold no classes, crowds and overlaps. A file of an image
    outside of the folder of the images has the name of the image without its folders.
    """
    classes = next(iter(dataset.splits.values()))["categories"]
    for split, content in dataset.splits.items():
        for image, annotations in iterate(content, notes):
            ids, kept = draw_objects(image, annotations, _MOST_IDS, notes)
            if len(classes) > 1:
                for annotation in kept:
                    notes.add("class of an object: lost", annotation["id"])
            name = Path(image["file_name"])
            if name.is_absolute() or ".." in name.parts:  # it would lie outside of the folder
                name = Path(flat_names(content)[image["id"]])
            path = folder / split / name.with_suffix(".png")
            if path.exists():
                raise UserError(
                    f"two images have the name {image['file_name']}, apart from the ending; rename "
                    "one"
                )
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(ids.astype(np.uint16)).save(path)
