"""Reads a COCO-format json and checks it: ids, references, image files, annotations."""

import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import UserError, count_noun, name_some, nearest, say_are, say_have, shorten
from ..files import read_json, refuse_special
from .annotations import clean_annotations, explain_crowds
from .bad_images import record_skipped
from .coco_ids import normalise_ids
from .coco_images import check_image_sizes, find_image_files
from .findings import Doubt, IssueCounter

__all__ = ["CocoJson", "check_coco_json", "inspect_coco_json", "list_classes", "raise_faults"]

# The advice for a result file, or for the file of a labelling tool in another format.
_EXPORT = "Export the objects in the format that labelling tools call COCO or COCO instances"

_ADVICE = {  # begin of a reason to drop an annotation -> advice
    "segmentation that is an object": "Export as COCO polygons or RLE",
    "polygon that leads more": "A vertex so far outside is likely a typo: correct it",
}

_SKIPS = "The run goes on without such images, since MASK_RCNN_EXT.DATA.ON_BAD_IMAGE is skip"

logger = logging.getLogger(__name__)


@dataclass
class CocoJson:
    """A checked COCO json.

    Attributes:
        path: the file that was read.
        content: the json object, cleaned so that detectron2 and pycocotools can read all of it.
        changed: `content` differs from the file, and the file itself cannot be used.
        polygons: every instance that is not a crowd has polygons.
        image_paths: the file of each entry of `content["images"]`, "" if there is none.
        faults: the reasons why the file cannot be used, a complete sentence for each kind. If there
            are any, `content` only serves to find more faults.
        warnings: the warnings in the log, a complete sentence for each kind.
        doubts: the annotations that some of the warnings are about.
        annotations: all annotations of the file, also the malformed ones.
        kept: the sound annotations.
        completed: the changes, by kind.
        dropped: the malformed annotations, by reason.
    """

    path: str
    content: dict[str, Any] = field(default_factory=dict)
    changed: bool = False
    polygons: bool = True
    image_paths: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    doubts: list[Doubt] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)
    kept: list[dict[str, Any]] = field(default_factory=list)
    completed: IssueCounter = field(default_factory=IssueCounter)
    dropped: IssueCounter = field(default_factory=IssueCounter)


def check_coco_json(json_file: str, image_root: str, **options: Any) -> CocoJson:
    """Read a COCO-format json and check it.

    Args:
        json_file: path of the json.
        image_root: folder of the images.
        options: see `inspect_coco_json`.

    Raises:
        UserError: the file has faults; the message lists all of them.
    """
    file = inspect_coco_json(json_file, image_root, **options)
    raise_faults(file.faults)
    return file


def raise_faults(faults: Iterable[str]) -> None:
    """Raise one `UserError` with all faults, one on each line, if there are any."""
    faults = list(faults)
    if len(faults) > 1:
        head = f"the data cannot be used, for {len(faults)} reasons:"
        raise UserError("\n  ".join([head, *faults]))
    if faults:
        raise UserError(faults[0])


def inspect_coco_json(
    json_file: str,
    image_root: str,
    *,
    strict: bool = False,
    masks: bool = True,
    allow_empty: bool = False,
    boxes_from_masks: bool = False,
    known: Mapping[str, int] | None = None,
    channels: int = 0,
    skip_bad_images: bool = False,
) -> CocoJson:
    """Read a COCO-format json, check it against its images, and clean its annotations.

    A malformed annotation (degenerate box, empty or wrong mask, no box and no mask) is dropped, and
    a warning counts the dropped annotations by reason.

    These changes are counted in the log: boxes are clipped to the image; missing `area`, `bbox`,
    `id`, `iscrowd`, `width` and `height` are filled in; `ignore` becomes `iscrowd`; ids become
    integers, see `coco_ids`; file names of other machines become names in `image_root`, see
    `coco_images`; a category that only groups the others is left out; and coordinates that are
    fractions of the image become pixels.

    Warnings are about images with several frames or pages, boxes that contradict their masks,
    objects that are annotated twice, and files in which most annotations are crowd regions.

    Args:
        json_file: path of the json.
        image_root: folder of the images.
        strict: a malformed annotation is a fault, and so are boxes that contradict their masks and
            objects that are annotated twice.
        masks: treat an instance without a segmentation as malformed. If off, it is kept, and a
            missing `area` becomes the area of its box.
        allow_empty: accept a file without annotations, for validation data.
        boxes_from_masks: replace the box of every annotation that has a mask by the mask's box.
        known: category name -> id, for categories whose ids are not integers.
        channels: number of channels of images that `data.bands` reads; 0: 8-bit colour images.
        skip_bad_images: a missing or damaged image is a warning, unless all images are missing. The
            loader skips it, or it is left out here if the json does not give its size.

    Returns:
        The checked file. It has `faults` if it is not in COCO format, or contradicts itself or the
        images; if images are missing; if no instance is left; or, with `strict`, if an annotation
        is malformed, contradicts itself or repeats another annotation.
    """
    file = CocoJson(json_file)
    completed = file.completed
    try:
        file.content = _read_content(json_file, image_root, completed)
    except UserError as error:
        file.faults.append(str(error))
        return file
    content = file.content
    _leave_out_root_category(content, completed)
    faults = normalise_ids(content, known or {}, completed)
    faults += _find_category_faults(content)
    images = content["images"]
    skipped: list[str] | None = [] if skip_bad_images else None
    file.image_paths, missing = find_image_files(images, image_root, completed, skipped)
    unsized, wrong, in_parts = check_image_sizes(
        images, file.image_paths, completed, channels, skipped
    )
    file.warnings += [f"{json_file}: {in_parts}"] if in_parts else []
    file.warnings += [f"{json_file}: {text}. {_SKIPS}" for text in skipped or ()]
    file.faults = [f"{json_file}: {fault}" for fault in [*faults, *missing, *wrong]]
    if unsized:  # the annotations of these images cannot be checked
        if skip_bad_images and not file.faults:
            _leave_out_unsized(file, image_root, unsized)
        sized = [i for i, image in enumerate(content["images"]) if image["id"] not in unsized]
        content["images"] = [content["images"][i] for i in sized]
        file.image_paths = [file.image_paths[i] for i in sized]
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] not in unsized]
    _check_annotations(file, image_root, strict, masks, allow_empty, boxes_from_masks)
    return file


def _leave_out_unsized(file: CocoJson, image_root: str, unsized: set[int]) -> None:
    """Record that images are skipped which cannot be read, and have no size in the json."""
    for image in file.content["images"]:
        if image["id"] in unsized:
            path = os.path.join(image_root, image["file_name"])
            why = f"{path}: it cannot be read, and the json does not give its size"
            record_skipped({path: why})
            file.completed.add("image that cannot be used left out", image["id"])


def _check_annotations(
    file: CocoJson,
    image_root: str,
    strict: bool,
    masks: bool,
    allow_empty: bool,
    boxes_from_masks: bool,
) -> None:
    """Clean the annotations, add their faults to `file`, and log what was changed."""
    json_file, content = file.path, file.content
    completed, dropped = file.completed, file.dropped
    file.annotations = content["annotations"]
    total = len(file.annotations)
    folders = (os.path.dirname(os.path.abspath(json_file)), image_root)
    try:
        file.kept, missing, file.doubts = clean_annotations(
            content, folders, strict, masks, completed, dropped, boxes_from_masks=boxes_from_masks
        )
    except UserError as error:
        file.faults.append(f"{json_file}: {error}")
        return
    if missing:
        file.faults.append(
            f"{json_file}: {count_noun(len(missing), 'mask file')} not found: {name_some(missing)}"
            f"; looked for in {folders[0]} and {folders[1]}"
        )
    malformed = f"{dropped.total} of {total} annotations: {dropped}"
    if "no segmentation" in dropped.issues and masks:
        malformed += ". A model without masks, MODEL.MASK_ON False, needs only their boxes"
    for reason, advice in _ADVICE.items():
        if any(kind.startswith(reason) for kind in dropped.issues):
            malformed += f". {advice}"
    if strict:
        if dropped.issues:
            file.faults.append(
                f"{json_file}: malformed {malformed}. Fix them, or leave out --strict-data"
            )
        file.faults += [f"{json_file}: {d.text}, or leave out --strict-data" for d in file.doubts]
    kept, crowds = file.kept, explain_crowds(file.kept)
    nothing = not any(not a["iscrowd"] for a in kept) and ((total and not kept) or not allow_empty)
    if nothing and not file.faults:
        why = f"; malformed: {malformed}" if dropped.issues else ""
        why += f"; {crowds}" if crowds else ""
        file.faults.append(f"{json_file}: no instance to learn from or to compare with{why}")
        return
    doubts = [doubt.text for doubt in file.doubts]
    found = [f"dropped {malformed}" if dropped.issues else "", *doubts, crowds]
    file.warnings += [f"{json_file}: {text}" for text in found if text]
    if file.faults:
        return
    for sentence in file.warnings:
        logger.warning("%s", sentence)
    if completed.issues:
        logger.info("%s: changed: %s", json_file, completed)
    # Some releases of pycocotools cannot load results for a file without `info`.
    file.changed = bool(dropped.issues or completed.issues) or "info" not in content
    content.setdefault("info", {})
    content["annotations"] = kept
    file.polygons = all(a["iscrowd"] or isinstance(a.get("segmentation", []), list) for a in kept)


def list_classes(content: Mapping[str, Any]) -> dict[int, str]:
    """Return the categories of a COCO json, id -> name, sorted by id."""
    return {c["id"]: c["name"] for c in sorted(content["categories"], key=lambda c: c["id"])}


def _find_category_faults(content: dict[str, Any]) -> list[str]:
    """Return a fault about categories without a name, and a fault about repeated names."""
    categories = content["categories"]
    faults = []
    nameless = [c for c in categories if not isinstance(c.get("name"), str) or not c["name"]]
    if nameless:
        faults.append(
            f"{say_have(nameless, categories, 'categories')} no name: "
            f"category {nameless[0]['id']} has no `name`"
        )
    names = Counter(c["name"] for c in categories if c not in nameless)
    repeated = [name for name, n in names.items() if n > 1]
    if repeated:
        ids = ", ".join(str(c["id"]) for c in categories if c.get("name") == repeated[0])
        faults.append(
            f"{say_are(len(repeated), 'name')} used twice: the categories {ids} have "
            f"the same name {shorten(repr(repeated[0]))}. Rename one, or keep "
            "one and correct each category_id"
        )
    return faults


def _leave_out_root_category(content: dict[str, Any], completed: IssueCounter) -> None:
    """Leave out a category that has no objects and is the `supercategory` of all the others.

    Roboflow's exports begin with such a category. As a class it could never be learnt.
    """
    used = {str(a.get("category_id")) for a in content["annotations"]}
    for root in content["categories"]:
        others = [c for c in content["categories"] if c is not root]
        name = root.get("name")
        groups_all = others and all(c.get("supercategory") == name for c in others)
        if groups_all and name and str(root.get("id")) not in used:
            content["categories"] = others
            completed.add("category without objects that only groups the others left out", name)
            return


def _read_content(path: str, image_root: str, completed: IssueCounter) -> dict[str, Any]:
    """Read a COCO json and check that it has `images`, `annotations` and `categories`.

    Raises:
        UserError: the file is missing, unreadable, not json or not COCO format.
    """
    folder, name = os.path.split(os.path.abspath(path))
    if os.path.isdir(path):
        held = [n for n in sorted(os.listdir(path)) if n.endswith(".json")]
        hint = f". It holds {name_some(held, 3)}" if held else ""
        if os.path.isfile(image_root):
            hint = ". The json and the image folder seem to be exchanged"
        raise UserError(f"expected a json file, got the folder {os.path.abspath(path)}{hint}")
    if os.path.islink(path) and not os.path.exists(path):
        raise UserError(f"json file {path} is a link that leads to nothing or in a circle")
    if not os.path.exists(path):
        hint = nearest(name, os.listdir(folder)) if os.path.isdir(folder) else ""
        raise UserError(f"json file not found: {os.path.join(folder, name)}{hint}")
    refuse_special(path, "a json file")  # it is opened more than once
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(
            f"{path}: expected a json object with `images`, `annotations` and `categories`, got a "
            f"{type(content).__name__}. {_EXPORT}"
        )
    for key in ("images", "annotations", "categories"):
        entries = content.get(key)
        if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
            keys = name_some([shorten(repr(k)) for k in content], 20)
            got = "nothing" if key not in content else f"a {type(entries).__name__}"
            raise UserError(
                f"{path}: not COCO format: expected `{key}` to be a list of objects, got {got}; "
                f"the file's keys are {keys or 'none'}. {_EXPORT}"
            )
        if not entries and key != "annotations":
            raise UserError(f"{path}: the list `{key}` is empty")
    if any("segments_info" in a for a in content["annotations"]):
        raise UserError(
            f"{path}: annotations with `segments_info`: COCO's panoptic form. {_EXPORT}"
        )
    with open(path, "rb") as file:
        encoding = json.detect_encoding(file.read(4))
    if encoding != "utf-8":  # detectron2 and pycocotools read only UTF-8 without a byte order mark
        completed.add("file was not plain UTF-8", encoding)
    return content
