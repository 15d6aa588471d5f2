"""Reads image files with 8 bits per channel: upright, in the channel order of the models.

All parts of the package read images by the rules of this file, unless the config sets a number of
channels, see `data.bands`. Pillow turns grey, palette, bilevel, CMYK and YCbCr images into colour,
and an alpha channel is dropped. An image with more than 8 bits per channel is refused: Pillow would
cut all grey values above 255, and no rule fits every camera. If a file has several frames or pages,
the first is read.
"""

import logging
import os
import re
import struct
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from detectron2.data.detection_utils import _apply_exif_orientation, convert_PIL_to_numpy
from detectron2.utils.file_io import PathManager
from PIL import Image, UnidentifiedImageError

from ..errors import UserError
from ..files import refuse_special
from .pixel_limit import explain_limit

__all__ = [
    "EXIF_ORIENTATION",
    "IMAGE_SUFFIXES",
    "BGRArray",
    "ImageHeader",
    "ImageLike",
    "is_hidden",
    "name_unreadable",
    "open_image",
    "read_bgr",
    "read_header",
    "read_pixels",
    "read_record",
    "refuse_programs",
    "require_size",
]

BGRArray = npt.NDArray[np.uint8]
ImageLike = BGRArray | str | os.PathLike[str]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".jp2")
EXIF_ORIENTATION = 0x0112  # the tag in EXIF and in TIFF
_TIFF_WIDTH, _TIFF_HEIGHT = 0x0100, 0x0101
_EXIF_KEYS = {"exif", "Raw profile type exif", "XML:com.adobe.xmp"}  # of a PNG in Pillow
_TEXT_CHUNKS = {b"eXIf", b"iTXt", b"tEXt", b"zTXt"}  # of a PNG
_END_MARKS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}  # the last bytes of a whole file
_16_BIT_COLOUR = re.compile(r"(?<!BGR);16")  # a raw mode of Pillow's; BGR;16 is 5, 6 and 5 bits

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageHeader:
    """The properties of an image file that can be read without its pixels.

    Attributes:
        width: in pixels, after EXIF orientation.
        height: in pixels, after EXIF orientation.
        rotated: EXIF orientation exchanged width and height.
        frames: number of frames (GIF, WebP, PNG) or pages (TIFF).
    """

    width: int
    height: int
    rotated: bool
    frames: int


def is_hidden(path: str | os.PathLike[str]) -> bool:
    """Return whether the name of a file or folder is that of a hidden one.

    Examples are the "._x.jpg" that macOS leaves next to "x.jpg", and the "@eaDir" with small copies
    of the images that a network drive of Synology adds to each folder.
    """
    name = os.path.basename(path)
    return name.startswith(".") or name == "@eaDir"


def read_header(path: str | os.PathLike[str]) -> ImageHeader:
    """Read the header of an image file; decode the file too if it seems to be cut short.

    Raises:
        UserError: the file is missing, is not a readable image, ends too early (JPEG and PNG), or
            has more than 8 bits per channel.
    """
    with _open_photo(path) as (file, image):
        has_exif = image.format != "PNG" or not _EXIF_KEYS.isdisjoint(image.info)
        # Pillow decodes a whole PNG to look for EXIF data after its pixels.
        has_exif = has_exif or _has_late_texts(file)
        rotated = has_exif and _read_orientation(image) in (5, 6, 7, 8)
        width, height = _get_stored_size(image)
        if rotated:
            width, height = height, width
        frames = _count_frames(image)
        mark = _END_MARKS.get(image.format or "")
        if mark:
            position = file.tell()
            file.seek(-len(mark), os.SEEK_END)
            cut = file.read() != mark
            file.seek(position)
            if cut:  # or something is appended, which is no fault
                image.draft("L", (1, 1))  # a JPEG is decoded at an eighth of its size
                image.load()
    return ImageHeader(width, height, rotated, frames)


def _read_orientation(image: Image.Image) -> Any:
    try:
        return image.getexif().get(EXIF_ORIENTATION)
    except Exception:  # of many types; the reader of the pixels leaves out such EXIF data too
        return None


def _has_late_texts(file: Any) -> bool:
    """Return whether a PNG file has EXIF data or texts after its pixels; keep its position."""
    position, pixels, found = file.tell(), False, b""
    file.seek(8)
    while len(start := file.read(8)) == 8 and found != b"IEND":
        length, found = struct.unpack(">I4s", start)
        if pixels and found in _TEXT_CHUNKS:
            break
        pixels = pixels or found == b"IDAT"
        file.seek(length + 4, os.SEEK_CUR)  # over the content and its checksum
    file.seek(position)
    return found in _TEXT_CHUNKS


def read_bgr(path: str | os.PathLike[str]) -> BGRArray:
    """Read an image as (H, W, 3) uint8 BGR, upright by its EXIF; gray becomes 3 channels.

    Raises:
        UserError: the file is missing, is not a readable image, or has more than 8 bits per
            channel.
    """
    return read_pixels(path, "BGR", warn=True)


def read_pixels(
    path: str | os.PathLike[str], image_format: str, *, warn: bool = False
) -> npt.NDArray[Any]:
    """Read an image as (H, W, C), upright by its EXIF, for a model.

    Args:
        path: the image file.
        image_format: `INPUT.FORMAT`, see `detection_utils.convert_PIL_to_numpy` of detectron2.
        warn: warn of further frames or pages, which are not read.

    Raises:
        UserError: see `read_bgr`.
    """
    with _open_photo(path) as (_, image):
        if warn and (frames := _count_frames(image)) > 1:
            logger.warning("%s: only the first of %d frames or pages is read", path, frames)
        # These are parts of detectron2's `read_image`, which reads a damaged PNG as a black image,
        # and turns a TIFF twice: Pillow turns it when it loads the pixels, and drops the
        # orientation.
        image.load()
        pixels: npt.NDArray[Any]
        pixels = convert_PIL_to_numpy(_apply_exif_orientation(image), image_format)
    return pixels


def read_record(record: Mapping[str, Any], image_format: str = "BGR") -> npt.NDArray[Any]:
    """Read the image of a detectron2 data-set record, see `read_pixels`.

    Args:
        record: has `file_name`, and may have `height` and `width` in pixels.
        image_format: `INPUT.FORMAT`.

    Raises:
        UserError: see `read_bgr`; or the image has another size.
    """
    image = read_pixels(record["file_name"], image_format)
    require_size(image, record)
    return image


def require_size(image: npt.NDArray[Any], record: Mapping[str, Any]) -> None:
    """Check that an image, (H, W, C), has the size that its record states, if it states one.

    Raises:
        UserError: the size is another one.
    """
    height, width = image.shape[:2]
    expected = (record.get("height") or height, record.get("width") or width)
    if (height, width) != expected:
        raise UserError(
            f"{record['file_name']}: expected {expected[1]} x {expected[0]} pixels (width x "
            f"height) as its data set says, got {width} x {height}"
        )


@contextmanager
def name_unreadable(path: str | os.PathLike[str], advice: str = "") -> Iterator[None]:
    """Turn any error of the block into a `UserError` that names the file, and refuse a pipe.

    Args:
        path: the file that the block reads.
        advice: what to try, added to the reason.
    """
    refuse_special(path, "an image file")
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # decoders raise nearly anything on a broken file
        reason = f"{_explain_unreadable(error)}{advice}"
        raise UserError(f"{os.fspath(path)}: cannot be read as an image ({reason})") from error


def _explain_unreadable(error: Exception) -> str:
    """Return in few words why Pillow could not read an image."""
    if isinstance(error, UnidentifiedImageError):  # its text names the file object, not the path
        return "no image format that Pillow knows"
    if isinstance(error, Image.DecompressionBombError):
        number = re.search(r"\d+", str(error))
        return explain_limit(int(number[0]) if number else 0)
    return str(error).strip() or type(error).__name__


@contextmanager
def open_image(path: str | os.PathLike[str], advice: str = "") -> Iterator[tuple[Any, Image.Image]]:
    """Open a file and read its header; yield the file and the image of Pillow.

    Pillow's warnings are dropped. Any error of the block names the file, see `name_unreadable`.
    """
    with name_unreadable(path, advice), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # large images and odd EXIF blocks
        with PathManager.open(os.fspath(path), "rb") as file, Image.open(file) as image:
            refuse_programs(image)
            yield file, image


@contextmanager
def _open_photo(path: str | os.PathLike[str]) -> Iterator[tuple[Any, Image.Image]]:
    """Open an image of 8 bits; the error about a format of other channels names the key."""
    other = os.fspath(path).lower().endswith((".npy", ".tif", ".tiff"))
    key = "MASK_RCNN_EXT.DATA.IMAGE_CHANNELS"
    with open_image(path, f"; if it has other channels, set {key}" if other else "") as opened:
        image = opened[1]
        # The raw mode of 16-bit colour names its depth; `mode` is the same as with 8 bits.
        raw_modes = " ".join(str(tile[3]) for tile in getattr(image, "tile", ()))
        if image.mode[0] in "IF" or _16_BIT_COLOUR.search(raw_modes):
            raise UserError(
                f"{os.fspath(path)}: has more than 8 bits per channel (Pillow's mode {image.mode})."
                f" The values of black and white cannot be known from one image. Set {key} to the "
                "number of channels to use the values as they are, or convert all images of the "
                "data set to 8 bits with the same range, see docs/own_data.md"
            )
        yield opened


def refuse_programs(image: Image.Image) -> None:
    """Refuse an image, before its pixels are read, if Pillow would start another program for it.

    An EPS file is a program in PostScript, which Pillow gives to Ghostscript.

    Raises:
        OSError: the same error that Pillow raises for a file that it cannot read.
    """
    if image.format == "EPS":
        raise OSError("EPS is a program that draws; it is not run. Save the image as PNG")


def _get_stored_size(image: Image.Image) -> tuple[int, int]:
    """Return width and height before EXIF orientation."""
    tags = getattr(image, "tag_v2", None)
    if image.format != "TIFF" or not tags:
        return image.size
    return int(tags[_TIFF_WIDTH]), int(tags[_TIFF_HEIGHT])  # `size` is of the upright image


def _count_frames(image: Image.Image) -> int:
    # The second image of an MPO file, which many phones write as .jpg, is a preview or a depth map.
    return 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
