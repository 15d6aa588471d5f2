"""Registers a user's own COCO-format data in detectron2.

`train_net.py --train-json F --train-images D ...` calls `register_own_data`. The val file gets the
class table of the train file: detectron2's loader numbers the categories of each file separately,
and a category that is missing from the val file would shift the numbers of the others.
"""

import json
import logging
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from ..errors import UserError, count_noun, name_some, say_have
from ..files import atomic_open
from ..run_files import SPLIT_NAMES
from .coco_json import CocoJson, check_coco_json, inspect_coco_json, list_classes, raise_faults
from .marked_json import mark_json, require_replaceable
from .repeated_images import RepeatedImages, find_repeated_images
from .split import split_coco

__all__ = [
    "InspectedData",
    "OwnData",
    "choose_validation_part",
    "get_split_paths",
    "inspect_own_data",
    "register_own_data",
    "split_own_data",
]

_SPLIT_MARK = "split_by"  # of `marked_json`, in the parts of a split
_NAMES = {"train": "own_train", "val": "own_val"}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class OwnData:
    """The names, classes and mask format of the registered data.

    Attributes:
        train_name: `"own_train"`, the name in detectron2's catalogs; None without a train file.
        val_name: `"own_val"`; None without a val file.
        category_ids: the ids in the registered json, ascending, in the order of the classes.
        class_names: the names in the same order.
        mask_format: the value for `INPUT.MASK_FORMAT`: `"polygon"` if all instances of the train
            file, crowds aside, have polygons, else `"bitmask"`, which also reads RLE. Without a
            train file, the val file decides.
        warnings: the warnings in the log.
    """

    train_name: str | None
    val_name: str | None
    category_ids: tuple[int, ...]
    class_names: tuple[str, ...]
    mask_format: str
    warnings: tuple[str, ...] = field(default=(), compare=False, repr=False)


@dataclass(frozen=True)
class InspectedData:
    """A user's files, and the faults and warnings about them.

    Attributes:
        files: "train" or "val" -> the json.
        table: the classes of both files, id -> name. Without faults, the files have no other
            categories.
        faults: the reasons why the files cannot be used, one sentence for each kind.
        repeated: images that are listed twice, or are in both files.
        gaps: sentences about classes without an object to learn from, and about validation data
            without an object.
    """

    files: dict[str, CocoJson]
    table: dict[int, str]
    faults: list[str]
    repeated: list[RepeatedImages] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)

    @property
    def warnings(self) -> list[str]:
        """The warnings of a training, one sentence for each kind."""
        found = [sentence for file in self.files.values() for sentence in file.warnings]
        found += [repeated.text for repeated in self.repeated]
        return [*found, *self.gaps]


def register_own_data(
    train_json: str,
    train_images: str,
    val_json: str,
    val_images: str,
    *,
    clean_dir: str,
    strict: bool = False,
    **options: Any,
) -> OwnData:
    """Check a user's COCO-format files and register them as `own_train` and `own_val`.

    If a file needs changes, a cleaned copy in `clean_dir` is registered instead. The metadata's
    `json_file` is the registered file, and evaluation reads the same annotations. A call replaces
    the registrations of an earlier call; after an error there are none. Parallel processes may call
    the function.

    Args:
        train_json: path of the train json, or "" to evaluate only.
        train_images: folder of the train images.
        val_json: path of the validation json, or "" for none.
        val_images: folder of the validation images.
        clean_dir: folder for cleaned copies, created when needed.
        strict: see `inspect_coco_json`.
        options: further arguments of `inspect_own_data`.

    Returns:
        The registered names and the class table.

    Raises:
        UserError: a file has faults, see `inspect_coco_json`, or the categories of the files
            contradict each other; the message lists all faults of both files. Or a json is given
            without its images, images without their json, or neither; or `clean_dir` cannot be
            written.
    """
    for name in _NAMES.values():
        for catalog in (DatasetCatalog, MetadataCatalog):
            catalog.pop(name, None)
    pairs = {"train": (train_json, train_images), "val": (val_json, val_images)}
    data = inspect_own_data(pairs, strict=strict, **options)
    _raise_or_warn(data, strict)
    _log_counts(data, pairs, options.get("channels", 0))
    _write_and_register(data, pairs, clean_dir)
    return OwnData(
        train_name=_NAMES["train"] if "train" in data.files else None,
        val_name=_NAMES["val"] if "val" in data.files else None,
        category_ids=tuple(data.table),
        class_names=tuple(data.table.values()),
        mask_format="polygon" if next(iter(data.files.values())).polygons else "bitmask",
        warnings=tuple(data.warnings),
    )


def inspect_own_data(
    pairs: Mapping[str, tuple[str, str]],
    *,
    strict: bool = False,
    masks: bool = True,
    boxes_from_masks: bool = False,
    classes: Sequence[tuple[int, str]] = (),
    channels: int = 0,
    skip_bad_images: bool = False,
) -> InspectedData:
    """Check a user's COCO-format files, and give them one class table.

    Args:
        pairs: "train" and "val" -> (json, folder of the images), "" where there is none.
        strict: see `inspect_coco_json`.
        masks: the model learns masks; if not, instances need no segmentation.
        boxes_from_masks: compute the box of every annotation with a mask from this mask.
        classes: (category id, name) by ascending id: the class table of the weights to evaluate. It
            replaces the categories of the train file, and each file must agree with it.
        channels: see `inspect_coco_json`.
        skip_bad_images: see `inspect_coco_json`.

    Raises:
        UserError: a json is given without its images, images without their json, or neither.
    """
    given = _require_pairs(pairs)
    files: dict[str, CocoJson] = {}
    known = {name: category for category, name in classes}
    for split, pair in given.items():
        files[split] = inspect_coco_json(
            *pair,
            strict=strict,
            masks=masks,
            allow_empty=split == "val",
            boxes_from_masks=boxes_from_masks,
            known=known,
            channels=channels,
            skip_bad_images=skip_bad_images,
        )
        known = known or _name_ids(files[split])
    faults = [fault for file in files.values() for fault in file.faults]
    table = _build_class_table(files, classes, faults)
    repeated = find_repeated_images(files)
    return InspectedData(files, table, faults, repeated, _find_gaps(files, table))


def _raise_or_warn(data: InspectedData, strict: bool) -> None:
    """Raise if there are faults; log the warnings that are not about a single file."""
    repeated = [repeated.text for repeated in data.repeated]
    raise_faults([*data.faults, *repeated] if strict else data.faults)
    for sentence in [*repeated, *data.gaps]:
        logger.warning("%s", sentence)


def _log_counts(data: InspectedData, pairs: Mapping[str, tuple[str, str]], channels: int) -> None:
    """Log the numbers of images and objects, and the command that shows the places of warnings."""
    for file in data.files.values():
        crowds = sum(a["iscrowd"] for a in file.kept)
        logger.info(
            "%s: images: %d, objects: %d, crowd regions: %d, classes: %d",
            *(file.path, len(file.image_paths), len(file.kept) - crowds, crowds, len(data.table)),
        )
    if data.warnings:
        options = [
            f"--{split}-{what} {shlex.quote(path)}"
            for split, pair in pairs.items()
            for what, path in zip(("json", "images"), pair, strict=True)
            if path
        ]
        options += [f"--channels {channels}"] if channels else []
        logger.info(
            "A page that shows the places: mask-rcnn-ext check %s --output data_check",
            " ".join(options),
        )


def _write_and_register(
    data: InspectedData, pairs: Mapping[str, tuple[str, str]], clean_dir: str
) -> None:
    """Write a cleaned copy where one is needed, and register the files in detectron2."""
    for split, file in data.files.items():
        if file.changed:
            file.path = os.path.join(clean_dir, f"{_NAMES[split]}.json")
            with atomic_open(file.path, "w") as cleaned:
                json.dump(file.content, cleaned)
    metadata = {
        "thing_classes": list(data.table.values()),
        "thing_dataset_id_to_contiguous_id": {category: i for i, category in enumerate(data.table)},
    }
    for split, file in data.files.items():
        paths = os.path.abspath(file.path), os.path.abspath(pairs[split][1])
        register_coco_instances(_NAMES[split], metadata, *paths)


def get_split_paths(folder: str) -> tuple[str, str]:
    """Return the files of `split_own_data` in a folder: the training part, the validation part."""
    train, val = (os.path.join(os.path.abspath(folder), name) for name in SPLIT_NAMES.values())
    return train, val


def split_own_data(
    json_file: str,
    images: str,
    fraction: float,
    folder: str,
    *,
    group_by: str = "",
    **options: Any,
) -> tuple[str, str]:
    """Write a training part and a validation part of a user's json, see `split.split_coco`.

    Args:
        json_file: path of the json.
        images: folder of its images.
        fraction: the share of the images to train on.
        folder: receives `split_train.json` and `split_val.json`, cleaned by `inspect_coco_json`.
            Parallel processes may write the same files.
        group_by: see `split_coco`.
        options: see `inspect_coco_json`.

    Returns:
        The paths of the two files.

    Raises:
        UserError: the json has faults, cannot be split or is one of the two files, or one of them
            is not of a split, or `folder` cannot be written.
    """
    paths = get_split_paths(folder)
    if os.path.realpath(json_file) in map(os.path.realpath, paths):
        raise UserError(
            f"--split would replace the json that it divides, {json_file}, by one of its parts. "
            "Rename the json, or give another folder to write to"
        )
    for path in paths:
        require_replaceable(path, _SPLIT_MARK, "--split")
    content = check_coco_json(json_file, images, **options).content
    for path, part in zip(paths, split_coco(content, fraction, group_by=group_by), strict=True):
        mark_json(part, _SPLIT_MARK)
        with atomic_open(path, "w") as file:
            json.dump(part, file)
        images_of, annotations = (len(part[key]) for key in ("images", "annotations"))
        counts = count_noun(images_of, "image"), count_noun(annotations, "annotation")
        logger.info("%s: %s, %s", path, *counts)
    return paths


def choose_validation_part(own: Any, folder: str) -> None:
    """Let an evaluation that asks for a split read the validation part that the training wrote.

    Args:
        own: the node `MASK_RCNN_EXT.DATA`, which is changed if it has `SPLIT` or `GROUP_BY`.
        folder: the folder of the run whose weights are evaluated.

    Raises:
        UserError: the run has no validation part, or other validation data is given.
    """
    if not (own.SPLIT or own.GROUP_BY):
        return
    _, part = get_split_paths(os.path.join(folder, "data"))
    if not os.path.isfile(part) or not own.TRAIN_IMAGES or own.VAL_JSON not in ("", part):
        raise UserError(
            "--split divides data for a training. An evaluation reads the validation part that the "
            f"training wrote: expected {part}, the folder --train-images, and no --val-json. Leave "
            "out --split, and give --val-json and --val-images, or the config.yaml of the run"
        )
    own.VAL_JSON, own.VAL_IMAGES, own.SPLIT, own.GROUP_BY = part, own.TRAIN_IMAGES, 0.0, ""


def _require_pairs(given: Mapping[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    """Return the (json, folder) pairs that are given; raise if a pair is incomplete, or none is."""
    for split, (json_file, images) in given.items():
        if bool(json_file) != bool(images):
            option = f"--{split}-images" if json_file else f"--{split}-json"
            raise UserError(f"{json_file or images} needs its counterpart: also give {option}")
    pairs = {split: pair for split, pair in given.items() if pair[0]}
    if not pairs:
        raise UserError(
            "no data given: expected --train-json F --train-images D, --val-json F --val-images D, "
            "or both pairs"
        )
    return pairs


def _name_ids(file: CocoJson) -> dict[str, int]:
    """Return the category id of each name; nothing if ids or names are missing or repeated."""
    categories = file.content.get("categories", [])
    ids = {c["name"]: c["id"] for c in categories if isinstance(c.get("name"), str)}
    sound = len(ids) == len(categories) and None not in ids.values()
    return ids if sound else {}


def _build_class_table(
    files: dict[str, CocoJson], classes: Sequence[tuple[int, str]], faults: list[str]
) -> dict[int, str]:
    """Return the class table, id -> name; add missing categories to the files in place.

    Contradictions between the categories of the files are added to `faults`.
    """
    sound = [file for file in files.values() if _name_ids(file)]
    if classes:
        table, owner = dict(classes), "the weights' class table"
        if list(table) != sorted(i for i, _ in classes) or len(set(table.values())) != len(classes):
            raise UserError(
                f"classes: expected unique names by ascending unique ids, got {list(classes)}"
            )
    elif sound:
        table, owner = list_classes(sound[0].content), sound[0].path
    else:
        return {}
    known = {name: category for category, name in table.items()}
    for file in sound:
        own = list_classes(file.content)
        wrong = []
        for category, name in own.items():
            if category in table and table[category] != name:
                wrong.append(f"id {category} is {name!r} here and {table[category]!r} there")
            elif category not in table and name in known:
                wrong.append(f"{name!r} has id {category} here and {known[name]} there")
            elif category not in table:
                wrong.append(f"{name!r} (id {category}) is not there")
        if wrong:
            faults.append(
                f"categories of {file.path} contradict {owner}: {name_some(wrong)}. "
                f"The ids and names must be the same; a category of {owner} may be absent here"
            )
        if own != table:
            absent = [{"id": i, "name": name} for i, name in table.items() if i not in own]
            file.content["categories"] = [*file.content["categories"], *absent]
            for added in absent:
                file.completed.add("category of the class table added", added["name"])
            file.changed = True
    return table


def _find_gaps(files: dict[str, CocoJson], table: dict[int, str]) -> list[str]:
    """Return sentences about classes without an instance, and validation data without any."""
    gaps = []
    used = {
        split: {a["category_id"] for a in file.kept if not a["iscrowd"]}
        for split, file in files.items()
    }
    if learned := used.get("train"):
        unused = [name for category, name in table.items() if category not in learned]
        if unused:
            have = say_have(unused, table, "classes")
            gaps.append(f"{files['train'].path}: {have} no instance: {name_some(unused)}")
    if "val" in used and not used["val"]:
        gaps.append(f"{files['val'].path}: there is no object to find, so AP is undefined")
    return gaps
