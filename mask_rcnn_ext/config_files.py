"""Finds the yaml files of this package, by path or by name.

The module imports detectron2 only for a URL: `tools/command_line/light.py` imports it alone.
"""

import difflib
import os
from collections.abc import Iterable
from pathlib import Path

from .errors import UserError, shorten

__all__ = ["find_config_file", "find_config_root", "list_config_names", "suggest_names"]


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
    if _is_file(path_or_name):
        return path_or_name
    if named.is_file():
        return str(named)
    raise UserError(
        f"config file not found: {path_or_name} (looked from {os.getcwd()})"
        f"{suggest_names(path_or_name, list_config_names())}"
    )


def _is_file(path: str) -> bool:
    if "://" not in path:
        return os.path.isfile(path)
    from detectron2.utils.file_io import PathManager

    return bool(PathManager.isfile(path))


def suggest_names(wrong: str, known: Iterable[str]) -> str:
    """Return the end of an error: up to three names like `wrong`, and the command that lists ours.

    Args:
        wrong: a name that is not known, perhaps with `configs/` or a suffix.
        known: names of configs.
    """
    stem = wrong.removeprefix("configs/").removesuffix(".yaml").removesuffix(".yml")
    known = sorted(known, key=len)
    parts = [name for name in known if stem.lower() in name.lower()] if len(stem) > 2 else []
    near = parts or difflib.get_close_matches(stem, known, n=3, cutoff=0.6)
    listed = "mask-rcnn-ext configs lists the names"
    if not near:
        return f"; {listed}"
    *first, last = [repr(shorten(name)) for name in near[:3]]
    return f"; did you mean {', '.join(first)}{' or ' * bool(first)}{last}? {listed}"
