"""Ultralytics' YOLO segmentation: a text file of fractions for each image, and `data.yaml`.

A line is a class number and a single polygon. Ultralytics joins the parts of an object by a line
that the polygon follows there and back. Objects with several parts or with holes are written in the
same way here.
"""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import yaml

from ...errors import UserError, name_some
from ...layers.cracks import join_loops, trace_loops
from ...layers.packed_masks import MaskCrop
from ..coco_json import list_classes
from ..findings import IssueCounter
from ..images import IMAGE_SUFFIXES, is_hidden
from .dataset import SPLITS, Bools, Dataset, DatasetBuilder, decode_mask, iterate, name_split
from .files import copy_images, list_files, read_lines, read_text, write_text

__all__ = ["read_yolo", "write_yolo"]

_FARTHEST = 2  # a higher coordinate is no fraction of the image


def read_yolo(source: Path, images: Path | None, notes: IssueCounter) -> Dataset:
    """Read a folder with labels and images, or its `data.yaml`.

    The images are in the folders that the yaml names, else in the folder `images` of `source`. With
    `images`, which is the folder of the images, `source` holds the labels.
    """
    yaml_file = source if source.is_file() else _find_yaml(source)
    root = source.parent if source.is_file() else source
    config = _read_yaml(yaml_file) if yaml_file else {}
    names = _read_names(config, yaml_file, root)
    found = dict(_find_splits(config, yaml_file, root, images, notes))
    if not any(found.values()):
        raise UserError(f"{source}: no images found; give their folder with --images")
    image_root = _absolute(images) if images else _common_root(found, root)
    builder = DatasetBuilder(image_root, notes, names)
    seen: set[Path] = set()
    labels = _locate_labels([path for paths in found.values() for path in paths], root, images)
    for split, paths in found.items():
        for path in paths:
            label = labels[path]
            image = builder.add_image(str(path.relative_to(image_root)), str(path), split=split)
            if not label.is_file():
                notes.add("image without a label file: an image without objects", path.name)
                continue
            seen.add(label)
            _read_labels(label, image, builder)
    if not seen:
        raise UserError(f"{source}: no image has a label file; expected {label} for {path.name}")
    lonely = {p for folder in {p.parent for p in seen} for p in folder.glob("*.txt")} - seen
    for path in sorted(p for p in lonely if p.name != "classes.txt" and not is_hidden(p)):
        notes.add("label file without an image", path.name)
    if not names:  # the numbers are the names
        builder.classes = sorted(builder.list_labels(), key=int)
        notes.add("no names of classes: their numbers are the names", str(root))
    return builder.finish(str(source))


def _find_yaml(root: Path) -> Path | None:
    files = sorted(p for p in [*root.glob("*.yaml"), *root.glob("*.yml")] if not is_hidden(p))
    named = [f for f in files if f.stem in ("data", "dataset")] or files
    if len(named) > 1:
        raise UserError(
            f"{root} has several yaml files: give one of {name_some(list(map(str, named)))}"
        )
    return named[0] if named else None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(read_text(path))
    except RecursionError as error:
        raise UserError(f"{path}: not yaml: nested too deeply") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: the 99th day of a month
        raise UserError(f"{path}: not yaml: {' '.join(str(error).split())}") from error
    if not isinstance(config, dict):
        raise UserError(f"{path}: expected keys such as `names` and `train`")
    if config.get("kpt_shape"):  # x y of two points and a box would look like a polygon
        raise UserError(
            f"{path}: `kpt_shape`: labels of poses, whose keypoints are not read. Export the "
            "objects as YOLO segmentation"
        )
    return config


def _read_names(config: dict[str, Any], path: Path | None, root: Path) -> list[str]:
    """Return the names of the classes by number; none if no file holds them."""
    names = config.get("names")
    if isinstance(names, dict):
        wrong = [key for key in names if not isinstance(key, int) or key < 0]
        if wrong or set(names) != set(range(len(names))):
            raise UserError(f"{path}: `names`: expected the numbers 0 to {len(names) - 1}")
        names = [names[number] for number in range(len(names))]
    if path and (not isinstance(names, list) or not names):
        raise UserError(f"{path}: expected `names`, the names of the classes")
    if not path:
        lists = [root / "classes.txt", root / "obj.names", root / "labels" / "classes.txt"]
        held = next((f for f in lists if f.is_file()), None)
        names = [line for _, line in read_lines(held)] if held else []
    names = [str(name) for name in names or []]
    if len(set(names)) < len(names):
        raise UserError(f"{path or root}: two classes have the same name: {name_some(names, 20)}")
    return names


def _find_splits(
    config: dict[str, Any],
    yaml_file: Path | None,
    root: Path,
    images: Path | None,
    notes: IssueCounter,
) -> Iterator[tuple[str, list[Path]]]:
    """Yield the name and the image files of each split."""
    if images:
        yield "", _list_images(images)
        return
    bases = [root / str(config.get("path") or "."), root]
    named = [(key, config[key]) for key in sorted(map(str, config)) if config.get(key)]
    listed = _choose_splits([pair for pair in named if _may_be_split(*pair, bases)], notes)
    for split, (key, value) in listed.items():
        entries = list(map(str, value if isinstance(value, list) else [value]))
        if split == "test" and len(listed) > 1 and not any(_locate(e, bases)[0] for e in entries):
            # Roboflow's yaml names a test set even if the export has none.
            notes.add("split that is not there", f"{key}: {', '.join(entries)}")
            continue
        files = [f for e in entries for f in _resolve(e, bases, f"{yaml_file}: `{key}`")]
        yield split, sorted(set(files))
    if listed:
        return
    folders = [(f.name, f) for f in sorted(root.glob("images/*")) if f.is_dir()]
    folders += [(f.parent.name, f) for f in sorted(root.glob("*/images")) if f.is_dir()]
    listed = _choose_splits(folders, notes)
    for split, (_, folder) in listed.items():
        yield split, _list_images(folder)
    if not listed:
        folder = root / "images" if (root / "images").is_dir() else root
        yield "", _list_images(folder)


def _may_be_split(key: str, value: object, bases: list[Path]) -> bool:
    """Return whether a key of the yaml names a split: by its name, or by a folder inside."""
    paths = [os.path.normpath(base / value) for base in bases] if isinstance(value, str) else []
    folder = any(os.path.isdir(path) and Path(path) not in bases for path in paths)
    return name_split(key) in SPLITS or (folder and key != "path")


def _choose_splits(pairs: list[tuple[str, Any]], notes: IssueCounter) -> dict[str, tuple[str, Any]]:
    """Return the first pair of a name and its images for each split; count the other pairs."""
    chosen: dict[str, tuple[str, Any]] = {}
    others = []
    for name, images in pairs:
        split = name_split(name)
        if split in SPLITS and split not in chosen:
            chosen[split] = (name, images)
        else:
            others.append(name)
    for name in others if chosen else ():
        notes.add("split that is not read", name)
    return {split: chosen[split] for split in SPLITS if split in chosen}


def _locate(entry: str, bases: list[Path]) -> tuple[Path | None, list[Path]]:
    """Return the path that an entry of the yaml names, if there is one, and the paths tried."""
    entry = entry.replace("\\", "/")
    # Roboflow writes ../train/images for a folder next to the yaml.
    tried = [base / name for base in bases for name in (entry, entry.removeprefix("../"))]
    return next((p for p in tried if os.path.exists(p)), None), tried


def _resolve(entry: str, bases: list[Path], place: str) -> list[Path]:
    """Return the images of an entry of the yaml: a folder, a list of files, or an image."""
    path, tried = _locate(entry, bases)
    if path is None:
        raise UserError(
            f"{place}: neither {tried[0]} nor {tried[-1]} is there. Correct the path, or remove "
            "the line if there is no such split"
        )
    if path.is_dir():
        return _list_images(path)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return [_absolute(path)]
    found = []
    for number, line in read_lines(path):
        # CVAT writes data/images/train/1.jpg for a file in images/train next to the list.
        slashes = line.replace("\\", "/")  # of Windows
        names = (line, slashes, slashes.removeprefix("data/"))
        options = [base / name for name in names for base in (path.parent, *bases)]
        file = next((p for p in options if os.path.isfile(p)), None)
        if file is None:
            raise UserError(
                f"{path}, line {number}: image not found: {line}. If the images are elsewhere, "
                "give their folder with --images"
            )
        found.append(file)
    return [_absolute(file) for file in found]


def _list_images(folder: Path) -> list[Path]:
    return [_absolute(path) for path in list_files(folder, IMAGE_SUFFIXES)]


def _absolute(path: Path) -> Path:
    """Return the path without `..`; links are not resolved, since labels lie next to them."""
    return Path(os.path.abspath(path))


def _common_root(found: dict[str, list[Path]], root: Path) -> Path:
    """Return the folder of the data set, or the nearest folder above it that holds all images."""
    paths = [path for files in found.values() for path in files]
    root = _absolute(root)
    while not all(path.is_relative_to(root) for path in paths):
        root = root.parent
    return root


def _locate_labels(paths: list[Path], root: Path, images: Path | None) -> dict[Path, Path]:
    """Return the file of labels of each image, or the path where it was expected.

    With `images`, labels may be in other folders than their images. Of several images with the same
    name, none gets such labels, nor does an image get the labels of another one.
    """
    quoted: dict[Path, dict[str, Path]] = {}
    labels = {path: _find_label(_label_path(path, root, images), quoted) for path in paths}
    below = _index_labels(root) if images else {}
    times, used = Counter(path.stem for path in labels), set(labels.values())
    for path, label in labels.items():
        other = below.get(label.name, label)
        if not label.is_file() and times[path.stem] == 1 and other not in used:
            labels[path] = other
    return labels


def _label_path(image: Path, root: Path, images: Path | None) -> Path:
    """Return the path of the labels of an image: as in Ultralytics, `images` becomes `labels`."""
    name = f"{image.stem}.txt"
    if images:
        return _label_folder(root) / image.parent.relative_to(_absolute(images)) / name
    parts = list(image.parent.parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return Path(*parts, name)


def _label_folder(root: Path) -> Path:
    return root / "labels" if (root / "labels").is_dir() else root


def _index_labels(root: Path) -> dict[str, Path]:
    """Return name -> file of labels in all folders: CVAT's, without images, are in labels/train.

    Names that occur twice are left out.
    """
    files = list_files(_label_folder(root), (".txt",))
    times = Counter(path.name for path in files)
    return {path.name: path for path in files if times[path.name] == 1}


def _find_label(path: Path, quoted: dict[Path, dict[str, Path]]) -> Path:
    """Return the file of labels: Label Studio writes "%C3%A9.txt" for "é.png".

    Args:
        path: the file, whose name may be quoted.
        quoted: folder -> name -> file with the quoted name; a folder is added when it is needed.
    """
    if path.is_file():
        return path
    if path.parent not in quoted:
        quoted[path.parent] = {unquote(p.name): p for p in path.parent.glob("*%*.txt")}
    return quoted[path.parent].get(path.name, path)


def _read_labels(path: Path, image: dict[str, Any], builder: DatasetBuilder) -> None:
    width, height = image["width"], image["height"]
    for number, line in read_lines(path):
        place = f"{path}, line {number}"
        label, values = _read_line(line, place, builder.classes)
        if len(values) == 4:
            x, y, w, h = values * np.array([width, height, width, height])
            builder.add_object(image, label, place, box=(x - w / 2, y - h / 2, w, h))
        else:
            points = values.reshape(-1, 2) * (width, height)
            builder.add_object(image, label, place, parts=[points.ravel().tolist()])


def _read_line(line: str, place: str, names: list[str]) -> tuple[str, np.ndarray]:
    """Return the class and the fractions of a line: a box of 4, or a polygon."""
    try:
        number, *values = (float(word) for word in line.split())
    except ValueError as error:
        raise UserError(f"{place}: expected numbers, got {line[:60]!r}") from error
    if not number.is_integer() or number < 0 or (names and number >= len(names)):
        known = f"0 to {len(names) - 1}" if names else "a whole number of at least 0"
        raise UserError(f"{place}: class {line.split()[0]}: expected {known}")
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        raise UserError(
            f"{place}: expected a class and x y of at least 3 points (or a box of 4 numbers), got "
            f"{len(values)} numbers after the class"
        )
    array = np.asarray(values)
    if not (np.abs(array) <= _FARTHEST).all():
        raise UserError(f"{place}: expected fractions of the image, 0 to 1, got {array.max():g}")
    return names[int(number)] if names else str(int(number)), array


def write_yolo(dataset: Dataset, folder: Path, notes: IssueCounter) -> None:
    """Write `images/SPLIT`, `labels/SPLIT` and `data.yaml`.

    A data set without splits is written as `train`. YOLO holds no crowds, and no boxes if the data
    set has masks.
    """
    classes = list_classes(next(iter(dataset.splits.values())))
    numbers = {category: i for i, category in enumerate(classes)}
    everything = [a for content in dataset.splits.values() for a in content["annotations"]]
    masks = any(a.get("segmentation") for a in everything)
    config: dict[str, Any] = {}
    for split, content in dataset.splits.items():
        key = split or "train"
        config[key] = f"images/{key}"
        names = copy_images(dataset, content, folder / "images" / key)
        for image, annotations in iterate(content, notes):
            lines = []
            for annotation in annotations:
                if masks and not annotation.get("segmentation"):
                    notes.add("box without a mask: left out", annotation["id"])
                else:
                    values = _fractions(annotation, image["height"], image["width"])
                    words = [numbers[annotation["category_id"]], *(f"{v:.10g}" for v in values)]
                    lines.append(" ".join(map(str, words)))
            target = folder / "labels" / key / f"{Path(names[image['id']]).stem}.txt"
            write_text(target, "".join(f"{line}\n" for line in lines))
    if "val" not in config:
        notes.add("no val set, which Ultralytics needs: add --split 0.8", "data.yaml")
    config["names"] = dict(enumerate(classes.values()))
    write_text(folder / "data.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))


def _fractions(annotation: dict[str, Any], height: int, width: int) -> list[float]:
    if not annotation.get("segmentation"):
        x, y, w, h = annotation["bbox"]
        return [(x + w / 2) / width, (y + h / 2) / height, w / width, h / height]
    mask = decode_mask(annotation, height, width)
    points = _one_polygon(annotation["segmentation"], mask)
    fractions: list[float] = (points / (width, height)).ravel().tolist()
    return fractions


def _one_polygon(segmentation: Any, mask: Bools) -> np.ndarray:
    """Return an outline (M, 2) inside the image that pycocotools draws as exactly `mask`."""
    if isinstance(segmentation, list):
        parts = [np.asarray(part, dtype=np.float64).reshape(-1, 2) for part in segmentation]
        joined = join_loops([part.clip(0, mask.shape[::-1]) for part in parts])
        drawn = decode_mask({"segmentation": [joined.ravel().tolist()]}, *mask.shape)
        if (drawn == mask).all():
            return joined
    top, left, crop = MaskCrop(0, 0, mask).trim()
    corner = np.array([left, top], dtype=np.float64)
    return join_loops([loop + corner for loop in trace_loops(crop)])
