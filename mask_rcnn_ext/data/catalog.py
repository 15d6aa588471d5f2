"""Checks that named data sets of detectron2's catalogs are on disk, and finds their files."""

import os
from collections.abc import Iterable

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from ..config import complete_config
from ..errors import UserError, nearest
from .embedded import EMBEDDED

__all__ = ["find_annotation_files", "find_truth", "require_datasets"]

# The metadata keys with which detectron2's data sets and ours store the paths that they read.
_PATH_KEYS = (
    *("json_file", "image_root", "image_dir", "gt_dir"),
    *("dirname", "panoptic_json", "panoptic_root", "sem_seg_root"),
)
_DRAWN_AT_FIRST_USE = {f"{d.name}_{split}" for d in EMBEDDED.values() for split in d.splits}
_OWN_DATA = (
    "--train-json F --train-images D --val-json F --val-images D (compare: --gt-json F --images D)"
)


def require_datasets(names: Iterable[str]) -> None:
    """Raise unless every named data set is registered and its files and folders are on disk.

    Only the existence of annotation files and folders is checked. The embedded data sets always
    pass, because they are drawn when they are first used.

    Args:
        names: data-set names, as in `DATASETS.TRAIN` and `DATASETS.TEST`.

    Raises:
        UserError: a name is unknown, or files are missing. A single message covers all names. It
            lists the paths that were checked and the files to put there, and explains how to run
            without these data sets.
    """
    names = list(dict.fromkeys(names))
    unknown = [name for name in names if name not in DatasetCatalog]
    problems = [
        f"unknown data set {name!r}{nearest(name, DatasetCatalog.list())}" for name in unknown
    ]
    if unknown:
        problems.append(f"Your own COCO-format data needs no name: {_OWN_DATA}")
    missing = {name: paths for name in names if (paths := _missing_paths(name))}
    if missing:
        problems.append(_explain_missing(missing))
    if problems:
        raise UserError("\n".join(problems))


def _missing_paths(name: str) -> list[str]:
    """Return the absolute paths of the data set `name` that do not exist."""
    if name in _DRAWN_AT_FIRST_USE or name not in DatasetCatalog:
        return []
    metadata = MetadataCatalog.get(name)
    paths = [metadata.get(key) for key in _PATH_KEYS]
    local = [os.fspath(p) for p in paths if isinstance(p, str | os.PathLike) and p]
    absolute = [os.path.abspath(p) for p in local if "://" not in p]
    return [p for p in dict.fromkeys(absolute) if not os.path.exists(p)]


def _explain_missing(missing: dict[str, list[str]]) -> str:
    setting = os.getenv("DETECTRON2_DATASETS")
    root = os.path.abspath(os.path.expanduser(setting or "datasets"))
    paths = list(dict.fromkeys(path for paths in missing.values() for path in paths))
    inside = [os.path.relpath(p, root) for p in paths if p.startswith(os.path.join(root, ""))]
    names = ", ".join(repr(name) for name in missing)
    lines = [f"the data of {names} is not there. Looked for:", *(f"  {path}" for path in paths)]
    if inside:
        status = f"is {setting!r}" if setting else "is not set, so it is ./datasets"
        shown = ", ".join(p if os.path.splitext(p)[1] else f"{p}/" for p in inside)
        lines += [
            f"The root of data sets is {root} ($DETECTRON2_DATASETS {status}).",
            f"Put there {shown}, or set DETECTRON2_DATASETS to the folder that holds them.",
        ]
        if any(p.split(os.sep)[0] == "coco" for p in inside):
            lines.append("COCO is at https://cocodataset.org/#download")
    lines += [
        "To run without it:",
        f"  your own COCO-format data: {_OWN_DATA}",
        "  embedded data: --config-file configs/shapes/mask_rcnn_tiny_FPN.yaml, or `make demo`",
    ]
    return "\n".join(lines)


def find_truth(name: str) -> tuple[str, str]:
    """Return the annotation file and the image folder of a registered data set.

    An embedded data set is drawn first.

    Raises:
        UserError: the data set has no COCO json.
    """
    metadata = MetadataCatalog.get(name)
    path = metadata.get("json_file", "")
    if not path:
        raise UserError(f"data set {name!r}: expected a COCO json (`json_file`) in its metadata")
    if not os.path.isfile(path):
        DatasetCatalog.get(name)  # draws an embedded data set
    return str(path), str(metadata.get("image_root") or "")


def find_annotation_files(cfg: CfgNode, split: str = "TEST") -> dict[str, str]:
    """Return the annotation files of the data sets of a run: name of the data set -> file.

    Data sets without an annotation file are left out.

    Args:
        cfg: the config of the run.
        split: "TRAIN" or "TEST", the key under `DATASETS`.
    """
    own = complete_config(cfg).MASK_RCNN_EXT.DATA["TRAIN_JSON" if split == "TRAIN" else "VAL_JSON"]
    files = {
        name: own or MetadataCatalog.get(name).get("json_file", "") for name in cfg.DATASETS[split]
    }
    return {name: path for name, path in files.items() if path and os.path.isfile(path)}
