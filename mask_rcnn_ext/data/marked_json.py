"""The mark in `info` of the jsons that a command writes: it replaces no other file."""

import os
from typing import Any

from ..files import read_json_or_none

__all__ = ["is_marked", "mark_json"]

_MARK = "mask_rcnn_ext"


def mark_json(content: dict[str, Any], key: str) -> None:
    """Write the mark into the content of a COCO json, in place, under `key` of its `info`."""
    info = content.get("info")
    own = info if isinstance(info, dict) else {"original_info": info} if info else {}
    content["info"] = {**own, key: _MARK}


def is_marked(path: str, key: str) -> bool:
    """Return whether a file is a json with this mark."""
    content = read_json_or_none(path) if os.path.isfile(path) else None
    info = content.get("info") if isinstance(content, dict) else None
    return isinstance(info, dict) and info.get(key) == _MARK
