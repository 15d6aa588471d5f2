"""Files that record how far a prediction has come, so that it can go on after a kill.

Each process appends to its own file, `parts/part-RANK.jsonl`: first a line with a hash of the
settings and with the classes, then a line for each image. If a kill cuts a line, the line is
skipped and its image is predicted again. A line before it names the files of the image, which a
kill may leave without the line of the image.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from ..errors import UserError
from ..files import explain_write_error
from .coco_results import Json
from .image_files import ImageFile

__all__ = ["PartReader", "PartWriter", "find_begun", "hash_settings", "is_inside", "remove_parts"]

_FOLDER = "parts"


def hash_settings(settings: Json) -> str:
    """Return a hash of the settings that change the results; lines of others are ignored."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _list_parts(output: Path) -> list[Path]:
    return sorted((output / _FOLDER).glob("part-*.jsonl"))


def find_begun(output: Path) -> set[str]:
    """Return the files, relative to the folder, that unfinished predictions may have written."""
    lines = (line for path in _list_parts(output) for _, line in _read_lines(path))
    return {path for line in lines for path in line.get("begun", ()) if is_inside(path)}


def is_inside(path: str) -> bool:
    """Return whether a path is relative and stays inside its folder; others are not from here."""
    return not os.path.isabs(path) and not os.path.normpath(path).startswith("..")


def remove_parts(output: Path, *, complete: bool) -> None:
    """Remove the files of this module from the folder of the results.

    Args:
        output: the folder of the results.
        complete: the prediction is complete. If not, they stay if they name an image, or a file
            that is there: without them the next prediction would take it for a user's.
    """
    begun = any(os.path.isfile(output / path) for path in find_begun(output))
    if not complete and (begun or not PartReader(output, [], "").is_empty):
        return
    for path in _list_parts(output):
        path.unlink(missing_ok=True)
    with suppress(OSError):  # not there, or it holds something else
        (output / _FOLDER).rmdir()


def _stat(file: ImageFile) -> list[int] | None:
    """Return size and modification time of a file, which change when its content changes."""
    with suppress(OSError):
        found = os.stat(file.path)
        return [found.st_size, found.st_mtime_ns]
    return None


class PartWriter:
    """Appends lines to the part of one process.

    Args:
        output: the folder of the results.
        rank: the number of the process.
        head: `settings_sha256`, `names` and `ids` of the classes.
        after: the lines get later times than this one, even if the clock was set back.
    """

    def __init__(self, output: Path, rank: int, head: Json, after: int = 0) -> None:
        self._path = output / _FOLDER / f"part-{rank:05d}.jsonl"
        self._head, self._after = head, after

    def __enter__(self) -> "PartWriter":
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # Not buffered: what is written outlives a kill.
            self._file: IO[bytes] = open(self._path, "ab", buffering=0)
        except OSError as error:
            raise explain_write_error(self._path, error) from error
        self._write(b"\n")  # a line that was cut ends here
        self._write_line(self._head)
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def begin(self, paths: Iterable[str]) -> None:
        """Name files, relative to the folder of the results, before they are written."""
        if begun := list(paths):
            self._write_line({"begun": begun})

    def add(self, file: ImageFile, record: Json) -> None:
        """Write the line of an image. All other files of the image must exist already."""
        at = max(time.time_ns(), self._after + 1)
        self._write_line({"name": file.name, "at": at, "stat": _stat(file), **record})

    def _write_line(self, content: Json) -> None:
        self._write(json.dumps(content).encode() + b"\n")

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            raise UserError(
                f"cannot write {self._path}: {error.strerror or error}. Make room, then run the "
                "same command again: it continues"
            ) from error


class PartReader:
    """Finds the newest line of each image in all parts with the same settings.

    Args:
        output: the folder of the results.
        files: the images of the prediction.
        settings_sha256: the hash that `hash_settings` returned.

    Attributes:
        head: the first line of such a part; None if there is none.
        is_empty: whether no image has a line, whatever the settings.
        latest: the latest time of a line, whatever the settings; 0 without lines.
    """

    def __init__(self, output: Path, files: Sequence[ImageFile], settings_sha256: str) -> None:
        self._files, self._parts = files, _list_parts(output)
        self.head: Json | None = None
        self.is_empty, self.latest = True, 0
        numbers = {file.name: number for number, file in enumerate(files)}
        self._places: dict[int, tuple[int, int, int]] = {}  # time, part, position of the line
        self._done: set[int] = set()
        for part, path in enumerate(self._parts):
            counts = False
            for position, line in _read_lines(path):
                if "settings_sha256" in line:
                    counts = line["settings_sha256"] == settings_sha256
                    self.head = line if counts else self.head
                    continue
                if "begun" in line:
                    continue
                self.is_empty, self.latest = False, max(self.latest, line["at"])
                if counts and line["name"] in numbers:
                    self._keep(numbers[line["name"]], line, (line["at"], part, position))

    def _keep(self, number: int, line: Json, place: tuple[int, int, int]) -> None:
        if place < self._places.get(number, (0, 0, 0)):
            return
        self._places[number] = place
        whole = "failure" not in line and line["stat"] == _stat(self._files[number])
        (self._done.add if whole else self._done.discard)(number)

    def find_missing(self, numbers: Sequence[int]) -> list[int]:
        """Return the images, by their place in `files`, that are to be predicted (again).

        These are images without a line, images that failed, and images whose file has changed.
        """
        return [number for number in numbers if number not in self._done]

    def read(self) -> Iterator[tuple[ImageFile, Json]]:
        """Yield the images that have a line, with this line, in the order of `files`."""
        opened: dict[int, IO[bytes]] = {}
        try:
            for number, file in enumerate(self._files):
                if number in self._places:
                    _, part, position = self._places[number]
                    if part not in opened:
                        opened[part] = open(self._parts[part], "rb")  # noqa: SIM115
                    opened[part].seek(position)
                    yield file, json.loads(opened[part].readline())
        finally:
            for part_file in opened.values():
                part_file.close()


def _is_line(content: Json) -> bool:
    """Return whether `PartWriter` writes such a line: the settings, files, or an image."""
    image = isinstance(content.get("name"), str) and isinstance(content.get("at"), int)
    begun = content.get("begun")
    files = isinstance(begun, list) and all(isinstance(path, str) for path in begun)
    return "settings_sha256" in content or files or (image and "stat" in content)


def _read_lines(path: Path) -> Iterator[tuple[int, Json]]:
    """Yield the complete lines of a part, each with its position; other content is skipped."""
    position = 0
    with open(path, "rb") as file:
        for line in file:
            with suppress(ValueError):  # the line was cut by a kill or a power failure
                content = json.loads(line)
                if isinstance(content, dict) and _is_line(content):
                    yield position, content
            position += len(line)
