"""Finds the yaml files of this package, by path or by name."""

import os
from pathlib import Path

from detectron2.utils.file_io import PathManager

from .errors import UserError, nearest

__all__ = ["find_config_file", "find_config_root", "list_config_names"]


def find_config_root() -> Path:
    """Return the folder of yaml files: in an installed wheel, or next to the package."""
    package = Path(__file__).resolve().parent
    for root in (package / "configs", package.parent / "configs"):
        if root.is_dir():
            return root
    raise UserError(f"no configs folder in {package} or next to it; reinstall mask_rcnn_ext")


def list_config_names() -> list[str]:
    """Return the names of all our configs, such as "shapes/mask_rcnn_tiny_FPN"."""
    root = find_config_root()
    return sorted(p.relative_to(root).with_suffix("").as_posix() for p in root.rglob("*.yaml"))


def find_config_file(path_or_name: str) -> str:
    """Return the path of a yaml file, given by its path or by the name of a config of this package.

    Raises:
        UserError: there is no such file and no such name.
    """
    named = find_config_root() / f"{path_or_name.removesuffix('.yaml')}.yaml"
    if PathManager.isfile(path_or_name):
        return path_or_name
    if named.is_file():
        return str(named)
    raise UserError(
        f"config file not found: {path_or_name} (looked from {os.getcwd()})"
        f"{nearest(path_or_name, list_config_names())}"
    )
