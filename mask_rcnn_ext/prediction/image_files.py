"""Finds the image files that a user names (file, folder, glob), and predicts on them."""

import glob
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from detectron2.structures import Instances

from ..data.images import BGRArray, read_bgr
from ..errors import UserError
from .predictor import Predictor

__all__ = ["IMAGE_EXTENSIONS", "ImageFile", "find_images", "predict_files"]

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class ImageFile:
    """An input image.

    Attributes:
        path: absolute path.
        name: path relative to the folder of all inputs, with "/" between its parts; no two files
            have the same name.
    """

    path: Path
    name: str


def find_images(
    inputs: Sequence[str], *, recursive: bool = False, exclude: str | None = None
) -> list[ImageFile]:
    """Return the image files that `inputs` name, each file once, in natural order within an input.

    Args:
        inputs: files, folders and glob patterns. A file may have any extension. In folders and
            among the matches of a pattern, only files with one of `IMAGE_EXTENSIONS` count, in
            upper or lower case.
        recursive: also look in subfolders.
        exclude: a folder whose files are left out, unless an input names the file itself; for
            example the folder of earlier pictures.

    Raises:
        UserError: an input names no image.
    """
    roots: list[Path] = []
    paths: dict[Path, None] = {}  # keeps the order and drops duplicates
    for given in inputs:
        root, found = _expand(given, recursive)
        if exclude and not os.path.isfile(given):
            found = [path for path in found if _absolute(exclude) not in path.parents]
        if not found:
            raise UserError(_explain_no_images(given, recursive))
        roots.append(root)
        paths.update(dict.fromkeys(sorted(found, key=_natural_order)))
    common = Path(os.path.commonpath(roots))
    return [ImageFile(path, path.relative_to(common).as_posix()) for path in paths]


def predict_files(
    predictor: Predictor,
    files: Iterable[ImageFile],
    on_unreadable: Callable[[ImageFile, str], None],
) -> Iterator[tuple[ImageFile, BGRArray, Instances]]:
    """Yield each readable file with its image, (H, W, 3) uint8 BGR, and its instances, in order.

    At most one batch of images is in memory.

    Args:
        predictor: the predictor.
        files: the files to read.
        on_unreadable: a function that is called with each unreadable file and the reason; the
            other files are still predicted.
    """
    pending: deque[tuple[ImageFile, BGRArray]] = deque()

    def read_images() -> Iterator[BGRArray]:
        for file in files:
            try:
                image = read_bgr(file.path)
            except UserError as error:
                on_unreadable(file, str(error))
                continue
            pending.append((file, image))
            yield image

    for instances in predictor.stream(read_images()):
        file, image = pending.popleft()
        yield file, image, instances


def _absolute(path: str) -> Path:
    return Path(os.path.abspath(path))


def _expand(given: str, recursive: bool) -> tuple[Path, list[Path]]:
    """Return the root folder of one input, and the image files that the input names."""
    if os.path.isfile(given):
        path = _absolute(given)
        return path.parent, [path]
    if os.path.isdir(given):
        folder = _absolute(given)
        return folder, [path for path in _list_files(folder, recursive) if _is_image_name(path)]
    # The root of a pattern is the path before the first part with a wildcard.
    parts = _absolute(given).parts
    fixed = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts) - 1)
    matches = map(_absolute, glob.glob(given, recursive=True)) if glob.has_magic(given) else ()
    found = [path for path in matches if path.is_file() and _is_image_name(path)]
    return Path(*parts[:fixed]), found


def _list_files(folder: Path, recursive: bool) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        yield from (Path(parent, name) for name in names)
        if not recursive:
            return
        folders[:] = [name for name in folders if not name.startswith(".")]


def _is_image_name(path: Path) -> bool:
    # A leading dot marks a hidden file, such as the "._x.jpg" that macOS leaves next to "x.jpg".
    return path.suffix.lower() in IMAGE_EXTENSIONS and not path.name.startswith(".")


def _explain_no_images(given: str, recursive: bool) -> str:
    kinds = " ".join(IMAGE_EXTENSIONS)
    if os.path.isdir(given):
        below = not recursive and any(
            _is_image_name(p) for p in _list_files(_absolute(given), True)
        )
        hint = "; its subfolders have some: add --recursive" if below else ""
        return f"no images in the folder {given} (looked for {kinds}){hint}"
    if glob.has_magic(given):
        return f"no image matches the pattern {given} (looked for {kinds} from {os.getcwd()})"
    return f"input not found: {given} (looked for {_absolute(given)})"


def _natural_order(path: Path) -> list[list[str | int]]:
    """Return a sorting key that puts img2 before img10."""
    return [
        [int(text) if i % 2 else text for i, text in enumerate(re.split(r"(\d+)", part.lower()))]
        for part in path.parts
    ]
