"""Pascal VOC: `SegmentationObject` and `SegmentationClass`, PNG files of numbers.

The numbers are palette indices; CVAT and datumaro write the colours of the palette instead. 0 is
background, 255 is void: pixels that do not count. The classes are in `labelmap.txt`, which CVAT
writes, or in `class_names.txt`, which LabelMe's `labelme2voc.py` writes; without these files they
are the 20 classes of Pascal VOC.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ...errors import UserError
from ..coco_json import list_classes
from ..findings import IssueCounter
from ..images import is_hidden, open_image
from .dataset import (
    SPLITS,
    Dataset,
    DatasetBuilder,
    Ids,
    cut_objects,
    decode_mask,
    iterate,
    name_split,
)
from .files import copy_images, index_images, list_files, read_lines, write_text
from .id_images import draw_objects

__all__ = ["read_voc", "write_voc"]

_LABELMAP, _CLASS_NAMES = "labelmap.txt", "class_names.txt"
_BACKGROUND, _VOID = 0, 255
_CLASSES = [
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
]


def _make_palette() -> npt.NDArray[np.uint8]:
    """Return the (256, 3) colours of Pascal VOC: the bits of a number, spread over R, G and B."""
    numbers = np.arange(256)
    colors = np.zeros((256, 3), dtype=np.uint8)
    for bit in range(8):
        for channel in range(3):
            bits = (numbers >> (3 * bit + channel)) & 1
            colors[:, channel] |= (bits << (7 - bit)).astype(np.uint8)
    return colors


PALETTE = _make_palette()


def read_voc(source: Path, images: Path | None, notes: IssueCounter) -> Dataset:
    """Read a folder with `SegmentationObject` and `SegmentationClass`, such as `VOC2012`.

    The images are in the folder `JPEGImages`, or in `images`. They are listed in
    `ImageSets/Segmentation/train.txt`, `val.txt` (or `validation.txt`) and `test.txt`. Without
    these files, all images with a file of objects are read.
    """
    objects, classes = source / "SegmentationObject", source / "SegmentationClass"
    for folder in (objects, classes):
        if not folder.is_dir():
            raise UserError(f"folder not found: {folder}")
    root = images or source / "JPEGImages"
    names, colors = _read_classes(source, notes)
    builder = DatasetBuilder(root, notes, names)
    pictures = index_images(root)
    for split, stem, place in _list_stems(source, objects, notes):
        if not (objects / f"{stem}.png").is_file():
            raise UserError(f"{place}: not found: {objects / f'{stem}.png'}")
        if stem not in pictures:
            raise UserError(f"{place}: no image {stem} in {root}")
        ids = _read_numbers(objects / f"{stem}.png", PALETTE)
        kinds = _read_numbers(classes / f"{stem}.png", colors)
        if ids.shape != kinds.shape:
            raise UserError(f"{classes / f'{stem}.png'}: has another size than {objects.name}'s")
        name = str(pictures[stem].relative_to(root))
        image = builder.add_image(name, place, split=split, size=ids.shape)
        _add_objects(ids, kinds, image, objects / f"{stem}.png", builder)
    return builder.finish(str(source))


def _read_classes(source: Path, notes: IssueCounter) -> tuple[list[str], npt.NDArray[np.uint8]]:
    """Return the names of the classes 1, 2, ... and the colour of each class number."""
    if (source / _LABELMAP).is_file():
        return _read_labelmap(source / _LABELMAP)
    path = source / _CLASS_NAMES
    if not path.is_file():
        notes.add(f"no {_LABELMAP}: the classes are Pascal VOC's 20", source)
        return _CLASSES, PALETTE
    names = [line for _, line in read_lines(path)]
    _require_classes(path, names, "_background_")
    return names[1:], PALETTE


def _require_classes(path: Path, names: list[str], first: str) -> None:
    if not names or names[0].lower() != first or len(names) > _VOID:
        raise UserError(f"{path}: expected `{first}` and then at most {_VOID - 1} classes")


def _read_labelmap(path: Path) -> tuple[list[str], npt.NDArray[np.uint8]]:
    names: list[str] = []
    colors = PALETTE.copy()
    for number, line in read_lines(path):
        if line.startswith("#"):
            continue
        # label:color_rgb:parts:actions; a name may hold a colon
        fields = line.rsplit(":", 3)
        try:
            color = [int(v) for v in fields[1].split(",")] if fields[1].strip() else None
            if color == PALETTE[_VOID].tolist():
                continue  # a name for void
            if color:
                colors[len(names)] = color
        except (ValueError, IndexError) as error:
            raise UserError(
                f"{path}, line {number}: expected NAME:R,G,B::, got {line!r}"
            ) from error
        names.append(fields[0])
    _require_classes(path, names, "background")
    return names[1:], colors


def _list_stems(source: Path, objects: Path, notes: IssueCounter) -> list[tuple[str, str, str]]:
    """Return for each image the split, the name without suffix, and the place of the name."""
    lists: dict[str, Path] = {}
    others = []
    files = sorted((source / "ImageSets" / "Segmentation").glob("*.txt"))
    for listed in (path for path in files if not is_hidden(path)):
        split = name_split(listed.stem)
        if split not in SPLITS or lists.setdefault(split, listed) != listed:
            others.append(listed)
    found = [
        (split, stem, f"{lists[split]}, line {number}")
        for split in SPLITS
        if split in lists
        for number, stem in read_lines(lists[split])
    ]
    if not found:
        files = list_files(objects, (".png",))
        return [("", f.relative_to(objects).with_suffix("").as_posix(), str(f)) for f in files]
    stems = {stem for _, stem, _ in found}
    for listed in others:  # trainval.txt repeats the images of train and val
        if any(stem not in stems for _, stem in read_lines(listed)):
            notes.add("split that is not read", listed.name)
    return found


def _read_numbers(path: Path, colors: npt.NDArray[np.uint8]) -> Ids:
    """Return the numbers (H, W) of a PNG of indices, or of the colours of the numbers."""
    with open_image(path) as (_, image):
        values = np.asarray(image if image.mode in ("P", "L") else image.convert("RGB"))
    if values.ndim == 2:
        return values.astype(np.int64)
    code = values.astype(np.int64) @ (65536, 256, 1)
    codes = colors.astype(np.int64) @ (65536, 256, 1)
    numbers = {int(c): i for i, c in reversed(list(enumerate(codes.tolist())))}
    found, inverse = np.unique(code, return_inverse=True)
    unknown = [c for c in found.tolist() if c not in numbers]
    if unknown:
        rgb = (unknown[0] >> 16, unknown[0] >> 8 & 255, unknown[0] & 255)
        raise UserError(f"{path}: the colour {rgb} is not among the colours of the data set")
    return np.array([numbers[c] for c in found.tolist()])[inverse.reshape(code.shape)]


def _add_objects(
    ids: Ids, kinds: Ids, image: dict[str, Any], path: Path, builder: DatasetBuilder
) -> None:
    for value, window, mask in cut_objects(ids):
        if value == _VOID:
            continue
        place = f"{path}, object {value}"
        counts = np.bincount(kinds[window][ids[window] == value], minlength=_VOID + 1)
        counts[[_BACKGROUND, _VOID]] = 0
        number = int(counts.argmax())
        if not counts[number]:
            builder.notes.add("object without a class: left out", place)
            continue
        if np.count_nonzero(counts) > 1:
            builder.notes.add("object of several classes: the most frequent is read", place)
        if number > len(builder.classes):
            raise UserError(
                f"{place}: class number {number}, of {len(builder.classes)} classes. Name the "
                f"classes in {path.parent.parent / _LABELMAP}"
            )
        builder.add_object(image, builder.classes[number - 1], place, parts=[mask])


def write_voc(dataset: Dataset, folder: Path, notes: IssueCounter) -> None:
    """Write images, both kinds of PNG files, lists of images and `labelmap.txt`.

    A data set without splits is written as `train`. Crowd regions become void, which evaluation
    ignores. The files hold no overlaps, and at most 254 objects in an image.
    """
    classes = list_classes(next(iter(dataset.splits.values())))
    if len(classes) >= _VOID:
        raise UserError(f"Pascal VOC's PNG files hold {_VOID - 1} classes, got {len(classes)}")
    numbers = {category: number for number, category in enumerate(classes, 1)}
    rows = ["# label:color_rgb:parts:actions"]
    for name, color in zip(["background", *classes.values()], PALETTE.tolist(), strict=False):
        rows.append(f"{name}:{','.join(map(str, color))}::")
    if any(a["iscrowd"] for content in dataset.splits.values() for a in content["annotations"]):
        rows.append(f"ignored:{','.join(map(str, PALETTE[_VOID].tolist()))}::")  # datumaro needs it
    write_text(folder / _LABELMAP, "".join(f"{row}\n" for row in rows))
    seen: set[str] = set()
    for split, content in dataset.splits.items():
        files = copy_images(dataset, content, folder / "JPEGImages")
        stems = {i: Path(name).stem for i, name in files.items()}
        if twice := seen & set(stems.values()):
            raise UserError(f"two splits have an image of the name {min(twice)}; rename one")
        seen |= set(stems.values())
        listed = folder / "ImageSets" / "Segmentation" / f"{split or 'train'}.txt"
        write_text(listed, "".join(f"{stem}\n" for stem in stems.values()))
        for image, annotations in iterate(content):
            ids, kept = draw_objects(image, annotations, _VOID - 1, notes)
            kinds = np.array([_BACKGROUND, *(numbers[a["category_id"]] for a in kept)])[ids]
            for crowd in (a for a in annotations if a["iscrowd"] and a.get("segmentation")):
                free = decode_mask(crowd, image["height"], image["width"]) & (ids == 0)
                ids[free] = kinds[free] = _VOID
                notes.add("crowd region: written as void", crowd["id"])
            for kind, values in (("Object", ids), ("Class", kinds)):
                _save(values, folder / f"Segmentation{kind}" / f"{stems[image['id']]}.png")


def _save(numbers: Ids, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(numbers.astype(np.uint8))
    image.putpalette(PALETTE.ravel().tolist())
    image.save(path)
