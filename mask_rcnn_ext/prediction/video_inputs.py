"""Separates videos, streams and cameras from the other inputs that a user gives."""

import dataclasses
import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError
from .image_files import match_pattern

__all__ = ["VIDEO_EXTENSIONS", "VideoInput", "is_stream", "split_inputs"]

VIDEO_EXTENSIONS = (
    *(".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".ts", ".mts"),
)
_STREAM = re.compile(r"(rtsp|rtmp|http|https|udp)://")


@dataclasses.dataclass(frozen=True)
class VideoInput:
    """A video.

    Attributes:
        source: an absolute path, the address of a stream, or the number of a camera.
        name: name of the results, unique among the inputs.
    """

    source: str | int
    name: str


def is_stream(source: str | int) -> bool:
    """Return whether a source is the address of a stream."""
    return isinstance(source, str) and bool(_STREAM.match(source))


def split_inputs(inputs: Sequence[str]) -> tuple[list[VideoInput], list[str]]:
    """Return the inputs that are videos, streams and cameras, and the others.

    A number is a camera, unless a file or folder has this name. Folders are among the others.
    """
    sources: list[str | int] = []
    others: list[str] = []
    for given in inputs:
        if is_stream(given):
            sources.append(given)
        elif given.isdecimal() and not os.path.exists(given):
            sources.append(int(given))
        elif not given.lower().endswith(VIDEO_EXTENSIONS) or os.path.isdir(given):
            others.append(given)
        elif os.path.isfile(given) or not glob.has_magic(given):
            sources.append(os.path.abspath(given))
        else:
            matches = sorted(match_pattern(given))
            sources += [os.path.abspath(path) for path in matches if os.path.isfile(path)]
            if not matches:
                raise UserError(f"no video matches the pattern {given}")
    sources = list(dict.fromkeys(sources))
    paths = [s for s in sources if isinstance(s, str) and not is_stream(s)]
    root = os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else ""
    videos = []
    for number, source in enumerate(sources):
        if isinstance(source, int):
            name = f"camera{source}"
        elif source in paths:
            name = Path(os.path.relpath(source, root)).as_posix()
        else:
            name = f"stream{number}"
        videos.append(VideoInput(source, name))
    return videos, others
