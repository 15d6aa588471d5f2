"""Separates videos, streams and cameras from the other inputs; names the files of their results."""

import dataclasses
import glob
import json
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ..errors import UserError
from .image_files import match_pattern

__all__ = [
    "VIDEO_EXTENSIONS",
    "VideoInput",
    "is_stream",
    "name_video_files",
    "require_free_video_files",
    "split_inputs",
]

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


def name_video_files(video: VideoInput, folder: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Return the paths of the video with masks and of the json with the tracks."""
    masks = Path(folder, video.name if video.name.endswith(".mp4") else f"{video.name}.mp4")
    return masks, masks.with_name(f"{video.name.rpartition('/')[2]}.tracks.json")


def require_free_video_files(
    videos: Sequence[VideoInput], folder: str | os.PathLike[str], *, draw: bool
) -> None:
    """Check that the predictions of videos replace no file except those of earlier predictions.

    Args:
        videos: all videos to predict.
        folder: the output folder.
        draw: the videos with masks are written, not only the tracks.

    Raises:
        UserError: a file would replace an input, the file of another of the videos, or a file that
            no prediction of this video has written.
    """
    sources = {Path(video.source).resolve() for video in videos if isinstance(video.source, str)}
    names: dict[Path, str] = {}
    for video in videos:
        masks, tracks = name_video_files(video, folder)
        for path in (masks, tracks) if draw else (tracks,):
            if path.resolve() in sources:
                raise UserError(f"{path} would replace the input: give another output folder")
            if (other := names.setdefault(path, video.name)) != video.name:
                raise UserError(
                    f"{other} and {video.name} would have the same video with masks, {path}: "
                    "rename one of them, or predict them into two folders"
                )
            if os.path.lexists(path) and not _are_tracks(tracks, video.name):
                raise UserError(
                    f"{path}: the prediction would replace this file, which no prediction of "
                    f"{video.name} has written. Move it away, or give another output folder"
                )


def _are_tracks(path: Path, name: str) -> bool:
    """Return whether a file is one of our jsons with the tracks of the video `name`."""
    start = f"{json.dumps({'video': name})[:-1]}, "
    with suppress(OSError, ValueError), open(path, encoding="utf-8") as file:
        return file.read(len(start)) == start
    return False
