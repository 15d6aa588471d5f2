"""The table of our config keys, from the comments in `mask_rcnn_ext/config_keys.py`."""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

from mask_rcnn_ext.config import add_mask_rcnn_ext_config

from ..markdown import markdown_table

__all__ = ["config_keys", "keys_table"]


def config_keys() -> Iterator[tuple[list[tuple[str, str]], str]]:
    """Yield ([(key, default), ...], description) in the order of that file.

    A description is the comment above a `_declare` call. Calls that follow one another directly
    share the comment above the first.
    """
    keys: list[tuple[str, str]] = []
    comment: list[str] = []
    for line in (
        *Path(inspect.getfile(add_mask_rcnn_ext_config)).read_text("utf-8").splitlines(),
        "",
    ):
        call = re.fullmatch(r'    _declare\(cfg, "([A-Z0-9_.]+)", (.+)\)', line)
        if call:
            keys.append((call[1], call[2]))
            continue
        if keys:
            yield keys, " ".join(comment)
            keys, comment = [], []
        comment = [*comment, line[6:]] if line.startswith("    # ") else []


def keys_table() -> str:
    """Return the Markdown table: key, default, meaning."""
    return markdown_table(
        ["key", "default", "meaning"],
        (
            [
                ", ".join(f"`{key}`" for key, _ in keys),
                ", ".join(f"`{default}`" for default in dict.fromkeys(d for _, d in keys)),
                description.replace("|", r"\|"),
            ]
            for keys, description in config_keys()
        ),
    )
