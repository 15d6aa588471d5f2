"""The description of a model in its checkpoint: config, names, and the origin of the weights.

In addition to the weights, the file of a run holds plain values:

- `config`: the config of the run as yaml text, without the paths of the machine. It also says how
  images are prepared: INPUT.FORMAT, MODEL.PIXEL_MEAN and PIXEL_STD, INPUT.MIN_SIZE_TEST and
  MAX_SIZE_TEST.
- `class_names` and, with a keypoint head, `keypoint_names`: lists of text.
- `provenance`: `versions` (package -> version), `data` ("train" and "test" -> data set -> `file`
  and `sha256` of its annotations), `initial_weights` and `seed`.
- `iteration`, counted from 0, and, in `model_best.pth`, `best`: the measured values of the model.

A file from an unknown author is safe too: reading it runs no code and opens no other file.
"""

import importlib.metadata
import os
import platform
import shlex
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torchvision
from detectron2 import __version__ as detectron2_version
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from ..config import ExtCfgNode, get_cfg
from ..data.catalog import find_annotation_files
from ..errors import UserError
from ..files import file_sha256
from ..version import __version__
from .fetching import fetch_file
from .safe_load import load_pickle, load_torch, require_dict
from .safetensors_file import load_safetensors

__all__ = [
    "describe_run",
    "get_versions",
    "load_contents",
    "parse_config",
    "read_config",
    "remove_places",
]


def get_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that change the numbers of a run."""
    try:
        detectron2 = importlib.metadata.version("detectron2")  # has the commit, which "0.6" lacks
    except importlib.metadata.PackageNotFoundError:  # a source tree on the path
        detectron2 = str(detectron2_version)
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torchvision": str(torchvision.__version__),
        "detectron2": detectron2,
    }


def describe_run(cfg: CfgNode, seed: int) -> dict[str, Any]:
    """Return `config`, `provenance` and `keypoint_names` of a run, see the top of this file.

    Args:
        cfg: the config of the run; its data sets are registered.
        seed: the seed that the run uses.
    """
    keypoints: list[str] = []
    if cfg.MODEL.KEYPOINT_ON and cfg.DATASETS.TRAIN:
        keypoints = list(MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).get("keypoint_names", []))
    weights = cfg.MODEL.WEIGHTS
    data = {
        split.lower(): {
            name: {"file": os.path.basename(path), "sha256": file_sha256(path)}
            for name, path in find_annotation_files(cfg, split).items()
        }
        for split in ("TRAIN", "TEST")
    }
    provenance = {
        "versions": {"mask_rcnn_ext": __version__, **get_versions()},
        "data": data,
        "initial_weights": weights if "://" in weights else os.path.basename(weights),
        "seed": seed,
    }
    described = {"config": remove_places(cfg).dump_text(), "provenance": provenance}
    return {**described, **({"keypoint_names": keypoints} if keypoints else {})}


def remove_places(cfg: CfgNode) -> ExtCfgNode:
    """Return a copy of a config that names no file or folder of this machine."""
    cfg = ExtCfgNode(cfg.clone())
    cfg.defrost()
    cfg.OUTPUT_DIR, cfg.MODEL.WEIGHTS = get_cfg().OUTPUT_DIR, ""
    cfg.DATASETS.PROPOSAL_FILES_TRAIN = cfg.DATASETS.PROPOSAL_FILES_TEST = ()
    own = cfg.MASK_RCNN_EXT.DATA
    own.TRAIN_JSON = own.TRAIN_IMAGES = own.VAL_JSON = own.VAL_IMAGES = ""
    return cfg


def load_contents(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the contents of a checkpoint: `model`, and the values listed at the top of this file.

    A weight is read from the file when it is used.

    Args:
        path: a local file, or a URL that detectron2's PathManager knows.

    Raises:
        UserError: the file is missing, unreadable or unsafe, or is no checkpoint.
    """
    path = os.fspath(path)
    local = fetch_file(path, "Give the file of a trained model")
    if local.endswith(".safetensors"):
        return load_safetensors(local)
    contents = load_pickle(local) if local.endswith(".pkl") else load_torch(local, mapped=True)
    return require_dict(contents, path)


def read_config(path: str | os.PathLike[str]) -> ExtCfgNode:
    """Return the config that a checkpoint carries, see `parse_config`.

    Raises:
        UserError: see `load_contents` and `parse_config`.
    """
    return parse_config(load_contents(path), path)


def parse_config(
    contents: Mapping[str, Any],
    path: str | os.PathLike[str],
    *,
    add_keys: Callable[[ExtCfgNode], None] | None = None,
) -> ExtCfgNode:
    """Return the config that a checkpoint carries, with the checkpoint as MODEL.WEIGHTS.

    Keys that name files or folders always get their defaults. Nothing is downloaded when the model
    is built.

    Args:
        contents: the result of `load_contents`.
        path: the file or URL of the checkpoint.
        add_keys: declares config keys of a project, see `load_config`.

    Raises:
        UserError: there is no config, or it is not valid.
    """
    path, text = os.fspath(path), contents.get("config")
    if not isinstance(text, str):
        raise UserError(
            f"{path} contains no config: an earlier version or another program has saved it. Give "
            "the config as well, such as the config.yaml of the run: --config-file FILE --weights "
            f"{shlex.quote(path)}"
        )
    cfg = get_cfg()
    if add_keys:
        add_keys(cfg)
    cfg.merge_from_text(text, f"the config in {path}")
    cfg = remove_places(cfg)
    cfg.MODEL.WEIGHTS = path
    timm = cfg.MASK_RCNN_EXT.TIMM
    timm.PRETRAINED = False  # the file has the weights
    if ":" in timm.NAME:
        raise UserError(
            f"the config in {path}: MASK_RCNN_EXT.TIMM.NAME {timm.NAME!r} names a model outside "
            "timm, which is not fetched for a file. If you trust it, give the config as well: "
            f"--config-file FILE --weights {shlex.quote(path)}"
        )
    return cfg
