"""A user's own COCO-format data: checked whole, cleaned where needed, registered in detectron2.

`register_own_data` is what `train_net.py --train-json F --train-images D ...` calls. Both files
get one class table, the train file's, so that a val file without some category does not shift the
others: detectron2's loader numbers the categories of each file by itself.
"""

import json
import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from ..errors import UserError, name_some
from ..files import atomic_open
from .annotations import Tally, clean_annotations, complete_ids
from .coco_json import check_image_files, read_coco_json

__all__ = ["CocoJson", "OwnData", "category_table", "check_coco_json", "register_own_data"]

_NAMES = {"train": "own_train", "val": "own_val"}

logger = logging.getLogger(__name__)


@dataclass
class CocoJson:
    """A checked COCO json. `content` holds only what detectron2 and pycocotools can read.

    Attributes:
        path: the file it came from.
        content: the json's object, cleaned in place.
        changed: `content` differs from the file, so that the file itself cannot be used.
        polygons: every instance that is not a crowd is polygons.
    """

    path: str
    content: dict[str, Any]
    changed: bool
    polygons: bool


@dataclass(frozen=True)
class OwnData:
    """What a run needs to know about the data that was registered.

    Attributes:
        train_name: its name in detectron2's catalogs, `"own_train"`; None without a train file.
        val_name: `"own_val"`; None without a val file.
        category_ids: ids in the json, ascending; their order is the order of the model's classes.
        class_names: the names in the same order.
        mask_format: what `INPUT.MASK_FORMAT` has to be: `"polygon"` when every instance of the
            train file (val, when alone) but crowds is polygons, else `"bitmask"`, which reads RLE
            too.
    """

    train_name: str | None
    val_name: str | None
    category_ids: tuple[int, ...]
    class_names: tuple[str, ...]
    mask_format: str


def register_own_data(
    train_json: str,
    train_images: str,
    val_json: str,
    val_images: str,
    *,
    clean_dir: str,
    strict: bool = False,
    masks: bool = True,
    classes: Sequence[tuple[int, str]] = (),
) -> OwnData:
    """Check a user's COCO-format files and register them as `own_train` and `own_val`.

    A file that needs no change is registered as it is, else a cleaned copy in `clean_dir`;
    `json_file` in the metadata is the one registered, so that evaluation sees the same. An earlier
    call's registrations are replaced; after an error there are none. Safe in parallel processes.

    Args:
        train_json: path of the train json, or "" to evaluate only.
        train_images: folder of its images.
        val_json: path of the validation json, or "" for none.
        val_images: folder of its images.
        clean_dir: folder for cleaned copies, made when needed.
        strict: make a malformed annotation an error; by default it is dropped and counted.
        masks: the model learns masks; without, instances need no segmentation.
        classes: (category id, name) by ascending id, the class table of weights to evaluate. It
            takes the place of the train file's categories, and each file must agree with it.

    Returns:
        The registered names and the class table.

    Raises:
        UserError: see `check_coco_json`; also when a json comes without its images or the reverse,
            categories contradict each other, or `clean_dir` cannot be written.
    """
    for name in _NAMES.values():
        _forget(name)
    given = _complete_pairs({"train": (train_json, train_images), "val": (val_json, val_images)})
    files = {
        split: check_coco_json(*pair, strict=strict, masks=masks, allow_empty=split == "val")
        for split, pair in given.items()
    }
    table = _class_table(files, classes)
    _warn_of_unused(files, table)
    for split, file in files.items():
        if file.changed:
            file.path = os.path.join(clean_dir, f"{_NAMES[split]}.json")
            with atomic_open(file.path, "w") as cleaned:
                json.dump(file.content, cleaned)
    metadata = {
        "thing_classes": list(table.values()),
        "thing_dataset_id_to_contiguous_id": {category: i for i, category in enumerate(table)},
    }
    for split, file in files.items():
        paths = os.path.abspath(file.path), os.path.abspath(given[split][1])
        register_coco_instances(_NAMES[split], metadata, *paths)
    return OwnData(
        train_name=_NAMES["train"] if "train" in files else None,
        val_name=_NAMES["val"] if "val" in files else None,
        category_ids=tuple(table),
        class_names=tuple(table.values()),
        mask_format="polygon" if next(iter(files.values())).polygons else "bitmask",
    )


def _complete_pairs(given: dict[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    """Return the (json, folder) pairs that are given; raise when there is none or a half."""
    for split, (json_file, images) in given.items():
        if bool(json_file) != bool(images):
            lacking = f"--{split}-images" if json_file else f"--{split}-json"
            raise UserError(
                f"{json_file or images} came without its counterpart: give {lacking} too"
            )
    pairs = {split: pair for split, pair in given.items() if pair[0]}
    if not pairs:
        raise UserError(
            "no data given: expected --train-json F --train-images D, --val-json F --val-images D, "
            "or both pairs"
        )
    return pairs


def _forget(name: str) -> None:
    for catalog in (DatasetCatalog, MetadataCatalog):
        if name in catalog:
            catalog.remove(name)


def _class_table(files: dict[str, CocoJson], classes: Sequence[tuple[int, str]]) -> dict[int, str]:
    """Return the class table, id -> name, and give it to every file whose own differs, in place."""
    if classes:
        table, owner = dict(classes), "the weights' class table"
        if list(table) != sorted(i for i, _ in classes) or len(set(table.values())) != len(classes):
            raise UserError(
                f"classes: expected unique names by ascending unique ids, got {list(classes)}"
            )
    else:
        first = next(iter(files.values()))
        table, owner = category_table(first.content, first.path), first.path
    known = {name: category for category, name in table.items()}
    for file in files.values():
        own = category_table(file.content, file.path)
        wrong = []
        for category, name in own.items():
            if category in table and table[category] != name:
                wrong.append(f"id {category} is {name!r} here and {table[category]!r} there")
            elif category not in table and name in known:
                wrong.append(f"{name!r} has id {category} here and {known[name]} there")
            elif category not in table:
                wrong.append(f"{name!r} (id {category}) is not there")
        if wrong:
            raise UserError(
                f"categories of {file.path} contradict those of {owner}: {name_some(wrong)}. "
                "Both need the same ids and names; a category may be absent here, but not there"
            )
        if own != table:
            absent = [{"id": i, "name": name} for i, name in table.items() if i not in own]
            file.content["categories"] = [*file.content["categories"], *absent]
            file.changed = True
    return table


def _warn_of_unused(files: dict[str, CocoJson], table: dict[int, str]) -> None:
    """Name the classes that the model gets but cannot learn."""
    if "train" in files:
        used = {a["category_id"] for a in files["train"].content["annotations"] if not a["iscrowd"]}
        unused = [name for category, name in table.items() if category not in used]
        if unused:
            path = files["train"].path
            logger.warning(
                "%s: %d classes have no instance: %s", path, len(unused), name_some(unused)
            )


def check_coco_json(
    json_file: str,
    image_root: str,
    *,
    strict: bool = False,
    masks: bool = True,
    allow_empty: bool = False,
) -> CocoJson:
    """Read a COCO-format json, check it against its images, and clean its annotations.

    A malformed annotation (degenerate box, empty or wrong mask, none at all) is dropped; one
    warning counts them by reason. What can be completed is, with one line of information: boxes
    that stick out are clipped, missing `area`, `bbox`, `id`, `iscrowd`, `width` and `height` are
    filled in, and `ignore` becomes `iscrowd`.

    Args:
        json_file: path of the json.
        image_root: folder of its images.
        strict: make a malformed annotation an error instead of dropping it.
        masks: take an instance without a segmentation for malformed. Otherwise it is kept, and an
            `area` that is missing is its box's.
        allow_empty: accept a file without annotations, as validation may have.

    Returns:
        The checked file.

    Raises:
        UserError: the file is not COCO format, it contradicts itself or the images, images are
            missing, nothing is left to learn from, or under `strict` an annotation is malformed.
    """
    content = read_coco_json(json_file)
    category_table(content, json_file)
    mended, dropped = Tally(), Tally()
    for image_id in check_image_files(content["images"], image_root, json_file):
        mended.add("image size read from the file", image_id)
    complete_ids(content["annotations"], mended)
    total = len(content["annotations"])
    folders = (os.path.dirname(os.path.abspath(json_file)), image_root)
    kept, missing = clean_annotations(content, folders, strict, masks, mended, dropped)
    if missing:
        raise UserError(
            f"{json_file}: {len(missing)} mask files are missing: {name_some(missing)}; "
            f"looked for in {folders[0]} and {folders[1]}"
        )
    losses = f"{sum(n for n, _ in dropped.seen.values())} of {total} annotations: {dropped}"
    if "no segmentation" in dropped.seen and masks:
        losses += ". A model without masks, MODEL.MASK_ON False, needs their boxes only"
    if dropped.seen and strict:
        raise UserError(f"{json_file}: malformed {losses}. Mend them, or leave out --strict-data")
    if not any(not a["iscrowd"] for a in kept) and ((total and not kept) or not allow_empty):
        why = f"; malformed: {losses}" if dropped.seen else ""
        raise UserError(f"{json_file}: no instance to learn from or to compare with{why}")
    if dropped.seen:
        logger.warning("%s: dropped %s", json_file, losses)
    if mended.seen:
        logger.info("%s: completed %s", json_file, mended)
    # Some releases of pycocotools cannot load results against a file without `info`.
    changed = bool(dropped.seen or mended.seen) or "info" not in content
    content.setdefault("info", {})
    content["annotations"] = kept
    polygons = all(a["iscrowd"] or isinstance(a.get("segmentation", []), list) for a in kept)
    return CocoJson(json_file, content, changed, polygons)


def category_table(content: dict[str, Any], path: str) -> dict[int, str]:
    """Return the categories of a COCO json, id -> name, sorted by id.

    Raises:
        UserError: an id is not an integer, a name is missing, or either occurs twice.
    """
    categories = content["categories"]
    for category in categories:
        if not isinstance(category.get("name"), str) or not category["name"]:
            raise UserError(f"{path}: category {category['id']} has no `name`")
    table = {c["id"]: c["name"] for c in sorted(categories, key=lambda c: c["id"])}
    twice = [name for name, n in Counter(table.values()).items() if n > 1]
    if twice:
        ids = [str(i) for i, name in table.items() if name == twice[0]]
        raise UserError(f"{path}: the categories {', '.join(ids)} have the same name {twice[0]!r}")
    return table
