"""The mark in `info` of the jsons that a command writes: it replaces no other file."""

import os
from typing import Any

from ..errors import UserError
from ..files import read_json_or_none

__all__ = ["mark_json", "require_replaceable"]

_MARK = "mask_rcnn_ext"


def mark_json(content: dict[str, Any], key: str) -> None:
    """Write the mark into the content of a COCO json, in place, under `key` of its `info`."""
    info = content.get("info")
    own = info if isinstance(info, dict) else {"original_info": info} if info else {}
    content["info"] = {**own, key: _MARK}


def require_replaceable(path: str, key: str, option: str) -> None:
    """Check that there is no file, or a json with this mark.

    Raises:
        UserError: there is another file. The message begins with `option`.
    """
    content = read_json_or_none(path) if os.path.isfile(path) else None
    info = content.get("info") if isinstance(content, dict) else None
    marked = isinstance(info, dict) and info.get(key) == _MARK
    if os.path.lexists(path) and not marked:
        raise UserError(
            f"{option}: {path} exists, and no {option} has written it. Move it away, or give "
            "another name"
        )
