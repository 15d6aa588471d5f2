"""Checks the unpacked folder of Cityscapes and registers its splits as data sets.

    DIR/leftImg8bit/{train,val,test}/<city>/<city>_<sequence>_<frame>_leftImg8bit.png
    DIR/gtFine/{train,val}/<city>/<city>_<sequence>_<frame>_gtFine_{instanceIds.png,labelIds.png,
        polygons.json}

Training reads the polygons, evaluation reads the instanceIds. The files need no preparation.
"""

import functools
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.cityscapes import load_cityscapes_instances

from mask_rcnn_ext import UserError

__all__ = ["SPLITS", "data_name", "register_cityscapes", "require_layout", "used_splits"]

SPLITS = ("train", "val", "test")
_IMAGE = "_leftImg8bit.png"
_TRUTH = ("_gtFine_instanceIds.png", "_gtFine_labelIds.png", "_gtFine_polygons.json")
_ARCHIVES = {"leftImg8bit": "leftImg8bit_trainvaltest.zip", "gtFine": "gtFine_trainvaltest.zip"}
# detectron2's data set, which knows the 8 classes of Cityscapes without files.
_BUILTIN = "cityscapes_fine_instance_seg_train"


def data_name(split: str) -> str:
    """Return the name in detectron2's catalogs of a split: "train", "val" or "test"."""
    return f"cityscapes_instances_{split}"


def used_splits(names: Iterable[str]) -> list[str]:
    """Return the splits of Cityscapes among data-set names."""
    names = set(names)
    return [split for split in SPLITS if data_name(split) in names]


def register_cityscapes(root: str) -> None:
    """Register the three splits in detectron2's catalogs, and replace earlier registrations.

    For train and val, detectron2's loader reads the polygons, with groups (`persongroup`) as
    crowds, and the metadata is complete for the official evaluation. test has images only, because
    its ground truth is not public.

    Args:
        root: the folder that contains `leftImg8bit` and `gtFine`; it is not read yet.
    """
    classes = MetadataCatalog.get(_BUILTIN).thing_classes
    for split in SPLITS:
        name = data_name(split)
        for catalog in (DatasetCatalog, MetadataCatalog):
            catalog.pop(name, None)
        images, truth = (os.path.join(root, kind, split) for kind in _ARCHIVES)
        metadata = {"image_dir": images, "evaluator_type": "cityscapes_instance"}
        load: Callable[[], list[dict[str, Any]]]
        if split == "test":
            load = functools.partial(_load_images, images)
        else:
            load = functools.partial(load_cityscapes_instances, images, truth)
            if split == "val":  # both evaluators call the loader, which is slow
                load = functools.cache(load)
            metadata["gt_dir"] = truth
        DatasetCatalog.register(name, load)
        MetadataCatalog.get(name).set(thing_classes=list(classes), **metadata)


def _load_images(folder: str) -> list[dict[str, Any]]:
    paths = sorted(Path(folder).glob(f"*/*{_IMAGE}"))
    return [{"file_name": str(path), "image_id": path.name} for path in paths]


def require_layout(root: str, splits: Iterable[str]) -> None:
    """Check that the splits are complete: every image has its ground truth, and the reverse.

    Args:
        root: the folder that contains `leftImg8bit` and `gtFine`.
        splits: names in `SPLITS`.

    Raises:
        UserError: a folder or a file is missing, or there is a file that detectron2's loader or the
            official scripts cannot handle.
    """
    for split in splits:
        images = _frames(root, "leftImg8bit", split, (_IMAGE,))[_IMAGE]
        if not images:
            _refuse(root, f"leftImg8bit/{split} has no image <city>/*{_IMAGE}", "leftImg8bit")
        if split == "test":
            continue
        truths = _frames(root, "gtFine", split, _TRUTH)
        for suffix, frames in truths.items():
            if lacking := images - frames:
                what = f"{len(lacking)} of {len(images)} images of {split} have no gtFine/{split}/"
                _refuse(root, f"{what}<city>/*{suffix}, for example {min(lacking)}", "gtFine")
        if lacking := set().union(*truths.values()) - images:
            what = f"{len(lacking)} truths of {split} have no image, for example {min(lacking)}"
            _refuse(root, what, "leftImg8bit")


def _frames(root: str, kind: str, split: str, suffixes: tuple[str, ...]) -> dict[str, set[str]]:
    """Return suffix -> the `<city>/<city>_<sequence>_<frame>` of the files of a split."""
    folder = Path(root, kind, split)
    if not folder.is_dir():
        _refuse(root, f"there is no folder {kind}/{split}", kind)
    found: dict[str, set[str]] = {suffix: set() for suffix in suffixes}
    for path in folder.glob("*"):
        files = list(path.iterdir()) if path.is_dir() else [path]
        for file in files:
            suffix = next((s for s in suffixes if file.name.endswith(s)), "")
            frame = file.name.removesuffix(suffix)
            if path.is_dir() and suffix and len(frame.split("_")) == 3:
                found[suffix].add(f"{path.name}/{frame}")
            elif kind == "leftImg8bit":  # gtFine also has other files: *_color.png, ...
                raise UserError(
                    f"{file}: expected nothing but <city>/<city>_<sequence>_<frame>{_IMAGE} in "
                    f"{folder}; move it away"
                )
    return found


def _refuse(root: str, what: str, kind: str) -> None:
    raise UserError(
        f"Cityscapes in {os.path.abspath(root)}: {what}. Unpack {_ARCHIVES[kind]} of "
        "https://www.cityscapes-dataset.com there completely. The files need no preparation (the "
        "output of createTrainIdInstanceImgs is not read)"
    )
