"""Image files as a user names them (file, folder, glob), and prediction over them."""

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
        name: path relative to the folder that holds all inputs, with "/" between its parts; unique.
    """

    path: Path
    name: str


def find_images(
    inputs: Sequence[str], *, recursive: bool = False, exclude: str | None = None
) -> list[ImageFile]:
    """Return the image files that `inputs` name, each file once, in natural order within an input.

    Args:
        inputs: files, folders and glob patterns. A file is taken whatever its extension; in a
            folder, or matched by a pattern, files with one of `IMAGE_EXTENSIONS`, in any case, are.
        recursive: also look in the folders' subfolders.
        exclude: folder whose files are left out unless named one by one, such as that of earlier
            pictures.

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
            raise UserError(_nothing_found(given, recursive))
        roots.append(root)
        paths.update(dict.fromkeys(sorted(found, key=_natural)))
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
        predictor: finds the instances.
        files: the files to read.
        on_unreadable: called with a file that cannot be read and the reason; the others go on.
    """
    pending: deque[tuple[ImageFile, BGRArray]] = deque()

    def readable() -> Iterator[BGRArray]:
        for file in files:
            try:
                image = read_bgr(file.path)
            except UserError as error:
                on_unreadable(file, str(error))
                continue
            pending.append((file, image))
            yield image

    for instances in predictor.stream(readable()):
        file, image = pending.popleft()
        yield file, image, instances


def _absolute(path: str) -> Path:
    return Path(os.path.abspath(path))


def _expand(given: str, recursive: bool) -> tuple[Path, list[Path]]:
    """Return the folder that one input speaks of, and the image files it names."""
    if os.path.isfile(given):
        path = _absolute(given)
        return path.parent, [path]
    if os.path.isdir(given):
        folder = _absolute(given)
        return folder, [path for path in _walk(folder, recursive) if _is_image_name(path)]
    # The root of a pattern is what stands before its first folder with a wildcard.
    parts = _absolute(given).parts
    fixed = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts) - 1)
    matches = map(_absolute, glob.glob(given, recursive=True)) if glob.has_magic(given) else ()
    found = [path for path in matches if path.is_file() and _is_image_name(path)]
    return Path(*parts[:fixed]), found


def _walk(folder: Path, recursive: bool) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        yield from (Path(parent, name) for name in names)
        if not recursive:
            return
        folders[:] = [name for name in folders if not name.startswith(".")]


def _is_image_name(path: Path) -> bool:
    # A leading dot marks a hidden file, such as the "._x.jpg" that macOS leaves beside "x.jpg".
    return path.suffix.lower() in IMAGE_EXTENSIONS and not path.name.startswith(".")


def _nothing_found(given: str, recursive: bool) -> str:
    kinds = " ".join(IMAGE_EXTENSIONS)
    if os.path.isdir(given):
        below = not recursive and any(_is_image_name(p) for p in _walk(_absolute(given), True))
        hint = "; its subfolders hold some: add --recursive" if below else ""
        return f"no images in the folder {given} (looked for {kinds}){hint}"
    if glob.has_magic(given):
        return f"no image matches the pattern {given} (looked for {kinds} from {os.getcwd()})"
    return f"input not found: {given} (looked for {_absolute(given)})"


def _natural(path: Path) -> list[list[str | int]]:
    """Return a sorting key by which img2 comes before img10."""
    return [
        [int(text) if i % 2 else text for i, text in enumerate(re.split(r"(\d+)", part.lower()))]
        for part in path.parts
    ]
