"""Configs of this package by name, wherever the package is installed."""

from pathlib import Path

from .config import ExtCfgNode, load_config
from .errors import UserError, nearest

__all__ = ["get_config", "get_config_file"]


def _config_root() -> Path:
    """Return the folder of yaml files: in an installed wheel, or beside the package."""
    package = Path(__file__).resolve().parent
    for root in (package / "configs", package.parent / "configs"):
        if root.is_dir():
            return root
    raise UserError(f"no configs folder in {package} or beside it; reinstall mask_rcnn_ext")


def get_config_file(name: str) -> str:
    """Return the path of the config called `name`.

    Args:
        name: relative to `configs/`, with or without `.yaml`: `"mask_rcnn_R50_FPN"`,
            `"shapes/mask_rcnn_tiny_FPN.yaml"`.

    Raises:
        UserError: there is no such config. The message names the nearest one.
    """
    root = _config_root()
    stem = name.removesuffix(".yaml")
    path = root / f"{stem}.yaml"
    if not path.is_file():
        known = sorted(str(p.relative_to(root).with_suffix("")) for p in root.rglob("*.yaml"))
        raise UserError(f"no config {name!r}{nearest(stem, known)} Known: {', '.join(known)}")
    return str(path)


def get_config(name: str) -> ExtCfgNode:
    """Return the loaded config called `name`, see `get_config_file`."""
    return load_config(get_config_file(name))
