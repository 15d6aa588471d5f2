"""Finds the image files that a user names (file, folder, glob), and predicts on them."""

import contextlib
import glob
import logging
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from detectron2.structures import Instances

from ..data.bands import scale_for_display
from ..data.images import BGRArray, is_hidden
from ..data.pixel_limit import get_pixel_limit
from ..errors import UserError, count_noun, name_some
from ..files import is_special, refuse_special
from ..layers.rle import require_countable
from .predictor import Predictor
from .tiled import cut_image, predict_tiles
from .tiles import Tile, Tiling
from .windows import TiffWindows

__all__ = [
    "IMAGE_EXTENSIONS",
    "ImageFile",
    "describe_failure",
    "find_images",
    "match_pattern",
    "open_file",
    "predict_files",
]

logger = logging.getLogger(__name__)

_FEW = 1 << 26  # pixels of an image that is still drawn, if there is no pixel limit

IMAGE_EXTENSIONS = (
    *(".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"),
    *(".jp2", ".j2k", ".jpx", ".ppm", ".pgm", ".pbm", ".avif"),
)


@dataclass(frozen=True)
class ImageFile:
    """An input image.

    Attributes:
        path: absolute path.
        name: path relative to the common folder of all inputs, with "/" between its parts; unique.
    """

    path: Path
    name: str


def find_images(
    inputs: Sequence[str],
    *,
    recursive: bool = False,
    exclude: Sequence[str | os.PathLike[str]] = (),
    arrays: bool = False,
) -> list[ImageFile]:
    """Return the image files that `inputs` name, each file once, in natural order within an input.

    Args:
        inputs: files, folders and glob patterns. A file may have any extension. In folders and
            among the matches of a pattern, only files with one of `IMAGE_EXTENSIONS` count, in
            upper or lower case; the log says how many others there are.
        recursive: also look in subfolders.
        exclude: files, and folders with all their files, that are left out, such as the results of
            earlier predictions. The log says how many. A file or folder that an input names
            directly is kept.
        arrays: also find `.npy` files, see `data.bands`.

    Raises:
        UserError: an input names no image, or a folder cannot be listed.
    """
    left_out = {_absolute(path) for path in exclude}
    roots: list[Path] = []
    paths: dict[Path, None] = {}  # keeps the order and drops duplicates
    for given in inputs:
        root, found = _expand(given, recursive)
        if not os.path.isfile(given):
            found = _leave_out(given, root, found, left_out)
            known = (*IMAGE_EXTENSIONS, ".npy") if arrays else IMAGE_EXTENSIONS
            skipped = [path for path in found if not _has_extension(path, known)]
            _warn_about_skipped(given, skipped)
            found = [path for path in found if _has_extension(path, known)]
        if not found:
            refuse_special(given, "an image file")
            raise UserError(_explain_no_images(given, recursive))
        roots.append(root)
        paths.update(dict.fromkeys(sorted(found, key=_natural_order)))
    common = Path(os.path.commonpath(roots))
    return [ImageFile(path, path.relative_to(common).as_posix()) for path in paths]


Predicted = tuple[ImageFile, BGRArray | None, Instances]


def predict_files(
    predictor: Predictor,
    files: Iterable[ImageFile],
    on_failure: Callable[[ImageFile, str], None],
    *,
    tiling: Tiling | None = None,
    pictures: bool = True,
    soft: bool = False,
) -> Iterator[Predicted]:
    """Yield each file with its image, (H, W, 3) uint8 BGR, and its instances, in order.

    At most one batch of images is in memory, or one image that is cut into tiles. A batch has no
    more pixels than one image may have. Images of `data.bands` are yielded as pictures, see
    `scale_for_display`.

    Args:
        predictor: the predictor.
        files: the files to read.
        on_failure: a function that is called with each file that cannot be read, or on which the
            prediction fails, and the reason; the other files are still predicted.
        tiling: cut large images into tiles, see `prediction.tiled`.
        pictures: False yields None for an image that is read tile by tile. None is also yielded
            for such an image if it has more pixels than Pillow reads.
        soft: also merge the probabilities of masks in tiles.

    Yields:
        The file, the image, and the instances of `Predictor.stream_packed`.

    Raises:
        UserError: the model cannot be used for prediction.
    """
    side = tiling.resolve(predictor.cfg)[0] if tiling is not None else 0
    batch: list[tuple[ImageFile, npt.NDArray[Any]]] = []
    limit = get_pixel_limit()
    for file in files:
        try:
            source = open_file(predictor, file, side)
        except UserError as error:
            on_failure(file, str(error))
            continue
        size = source.size if isinstance(source, TiffWindows) else source.shape[:2]
        if predictor.cfg.MODEL.MASK_ON:
            try:
                require_countable(*size)
            except UserError as error:  # now, not after the prediction
                on_failure(file, f"{file.path}: {error}")
                continue
        if tiling is not None and max(size) > side:
            yield from _predict_batch(predictor, batch, on_failure)
            batch = []
            yield from _predict_large(predictor, file, source, tiling, on_failure, pictures, soft)
            continue
        if limit and sum(math.prod(each.shape[:2]) for _, each in [*batch, (file, source)]) > limit:
            yield from _predict_batch(predictor, batch, on_failure)
            batch = []
        batch.append((file, source))
        if len(batch) == predictor.batch_size:
            yield from _predict_batch(predictor, batch, on_failure)
            batch = []
    yield from _predict_batch(predictor, batch, on_failure)


def open_file(predictor: Predictor, file: ImageFile, side: int) -> Any:
    """Return the image, or a reader of its parts if it is large and has a reader.

    Args:
        predictor: the predictor that gets the image.
        file: the file.
        side: the side of the tiles; 0 if images are not cut.

    Raises:
        UserError: the file cannot be read.
    """
    if side and not predictor.cfg.MASK_RCNN_EXT.DATA.IMAGE_CHANNELS:
        windows = TiffWindows.open(file.path, side)
        if windows is not None:
            return windows
    return predictor.read(file.path)


def _predict_large(
    predictor: Predictor,
    file: ImageFile,
    source: Any,
    tiling: Tiling,
    on_failure: Callable[[ImageFile, str], None],
    pictures: bool,
    soft: bool,
) -> Iterator[Predicted]:
    """Predict on an image that is cut into tiles; `source` is it or a reader of its parts."""
    try:
        if isinstance(source, TiffWindows):
            with contextlib.closing(source):
                size = source.size
                found = predict_tiles(predictor, source.read, size, tiling, soft=soft)
                few = size[0] * size[1] <= (get_pixel_limit() or _FEW)
                picture = source.read(Tile(0, 0, *size)) if pictures and few else None
        else:
            read, size = cut_image(source), source.shape[:2]
            found = predict_tiles(predictor, read, size, tiling, soft=soft)
            picture = _show(source)
    except UserError:
        raise
    except Exception as error:
        on_failure(file, describe_failure(file.path, error))
        return
    yield file, picture, found


def _predict_batch(
    predictor: Predictor,
    batch: list[tuple[ImageFile, npt.NDArray[Any]]],
    on_failure: Callable[[ImageFile, str], None],
) -> Iterator[Predicted]:
    """Predict on a batch of images. If this fails, predict on each image alone."""
    found = predictor.stream_packed(image for _, image in batch)
    done = 0
    try:
        for (file, image), instances in zip(batch, found, strict=True):
            done += 1
            yield file, _show(image), instances
        return
    except UserError:
        raise
    except Exception as error:
        if len(batch) == 1:
            on_failure(batch[0][0], describe_failure(batch[0][0].path, error))
            return
    for each in batch[done:]:
        yield from _predict_batch(predictor, [each], on_failure)


def _show(image: npt.NDArray[Any]) -> BGRArray:
    return image if image.dtype == np.uint8 else scale_for_display(image)[:, :, ::-1]


def describe_failure(path: Path, error: Exception) -> str:
    """Return one line about a file that was read but could not be predicted or written."""
    logger.debug("%s", path, exc_info=error)
    reason = (str(error).strip() or "no reason given").splitlines()[0]
    return f"{path}: failed ({type(error).__name__}: {reason})"


def _absolute(path: str | os.PathLike[str]) -> Path:
    return Path(os.path.abspath(path))


def _expand(given: str, recursive: bool) -> tuple[Path, list[Path]]:
    """Return the root folder of an input, and the files that it names, without hidden files."""
    if os.path.isfile(given):
        path = _absolute(given)
        return path.parent, [path]
    if os.path.isdir(given):
        folder = _absolute(given)
        _require_listable(given)
        return folder, _leave_out_special(given, list(_list_files(folder, recursive)))
    # The root of a pattern is the path before the first part with a wildcard.
    parts = _absolute(given).parts
    fixed = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts) - 1)
    matches = map(_absolute, match_pattern(given)) if glob.has_magic(given) else ()
    found = [p for p in matches if p.exists() and not (p.is_dir() or is_hidden(p))]
    return Path(*parts[:fixed]), _leave_out_special(given, found)


def match_pattern(pattern: str) -> list[str]:
    """Return the paths that match a glob pattern, as `glob.glob` does, without hidden ones.

    A hidden folder is entered if the pattern names it before any `**`.
    `**` does not follow links to folders, since links in a circle give endless paths.
    """
    parts = Path(pattern).parts
    if "**" not in parts:
        return [path for path in glob.glob(pattern) if not _is_hidden_match(path, parts)]
    first = parts.index("**")
    below = os.path.join(*parts[first:], *(["*"] if parts[-1] == "**" else []))
    found = []
    for root in map(Path, glob.glob(os.path.join(*parts[:first])) if first else ["."]):
        for path in root.glob(below):
            if not any(map(is_hidden, path.relative_to(root).parts)):
                found.append(str(path))
    return found


def _is_hidden_match(path: str, pattern: Sequence[str]) -> bool:
    """Return whether a part of a path is hidden that the pattern does not name as hidden."""
    pairs = zip(Path(path).parts, pattern, strict=True)
    return any(is_hidden(part) and not is_hidden(wanted) for part, wanted in pairs)


def _leave_out(given: str, root: Path, paths: list[Path], left_out: set[Path]) -> list[Path]:
    """Return the paths that are not in `left_out`, and in no folder of it, unless `root` is too."""
    left_out = left_out.difference((root, *root.parents))
    kept = [path for path in paths if left_out.isdisjoint((path, *path.parents))]
    if number := len(paths) - len(kept):
        what = count_noun(number, "file")
        logger.info("%s: left out %s that earlier predictions have written", given, what)
    return kept


def _leave_out_special(given: str, paths: list[Path]) -> list[Path]:
    """Return the paths without pipes, sockets and devices: reading them could block for ever."""
    special = [path for path in paths if is_special(path)]
    if special:
        shown = name_some([path.name for path in special])
        logger.warning("%s: left out pipes, sockets and devices: %s", given, shown)
    return [path for path in paths if path not in set(special)]


def _require_listable(given: str) -> None:
    """Raise a `UserError` if a folder cannot be listed: `os.walk` would find it empty."""
    try:
        with os.scandir(given):
            pass
    except OSError as error:
        raise UserError(f"folder {given} cannot be listed: {error.strerror}") from error


def _list_files(folder: Path, recursive: bool) -> Iterator[Path]:
    """Yield files that are not hidden, such as the "._x.jpg" that macOS leaves next to "x.jpg"."""
    for parent, folders, names in os.walk(folder):
        yield from (Path(parent, name) for name in names if not is_hidden(name))
        if not recursive:
            return
        folders[:] = [name for name in folders if not is_hidden(name)]


def _has_extension(path: Path, extensions: Sequence[str]) -> bool:
    return path.suffix.lower() in extensions


def _warn_about_skipped(given: str, paths: list[Path]) -> None:
    """Log the number of files of an input that are left out, by the ends of their names."""
    if paths:
        ends = Counter(path.suffix.lower() or "without suffix" for path in paths)
        kinds = [f"{ends[end]} x {end}" for end in sorted(ends, key=lambda e: (-ends[e], e))]
        number = count_noun(len(paths), "file")
        logger.warning("%s: left out %s of other kinds: %s", given, number, name_some(kinds))


def _explain_no_images(given: str, recursive: bool) -> str:
    kinds = " ".join(IMAGE_EXTENSIONS)
    if os.path.isdir(given):
        folder = _absolute(given)
        below = not recursive and any(
            _has_extension(path, IMAGE_EXTENSIONS) and path.parent != folder
            for path in _list_files(folder, True)
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
