"""Checksums of the annotation files of a run, which show later whether the files have changed."""

import os

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from ..files import file_sha256

__all__ = ["find_annotation_files", "get_data_checksums"]


def find_annotation_files(cfg: CfgNode, split: str = "TEST") -> dict[str, str]:
    """Return the annotation files of the data sets of a run: name of the data set -> file.

    Data sets without an annotation file are left out.

    Args:
        cfg: the config of the run.
        split: "TRAIN" or "TEST", the key under `DATASETS`.
    """
    own = cfg.MASK_RCNN_EXT.DATA["TRAIN_JSON" if split == "TRAIN" else "VAL_JSON"]
    files = {
        name: own or MetadataCatalog.get(name).get("json_file", "") for name in cfg.DATASETS[split]
    }
    return {name: path for name, path in files.items() if path and os.path.isfile(path)}


def get_data_checksums(cfg: CfgNode) -> dict[str, str]:
    """Return the SHA-256 of the annotation file of each test set that has one."""
    return {name: file_sha256(path) for name, path in find_annotation_files(cfg).items()}
