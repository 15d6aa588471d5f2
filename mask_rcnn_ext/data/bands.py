"""Images with any number of channels (bands) and any depth, read as float32 without clipping.

`MASK_RCNN_EXT.DATA.IMAGE_CHANNELS` switches this reader on; without it every image is read by the
rules of `data.images`. It reads `.npy` files; TIFF with tifffile, which is the extra `tiff`; 16-bit
colour PNG with OpenCV; and all other formats that Pillow reads. An array is (H, W, C), (C, H, W),
or (H, W) if it has one channel. The channels keep the order of the file.
"""

import math
import os
import struct
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from ..errors import UserError
from .images import (
    EXIF_ORIENTATION,
    ImageHeader,
    name_unreadable,
    open_image,
    read_record,
    require_size,
)
from .pixel_limit import require_pixels

__all__ = [
    "Bands",
    "order_bands",
    "read_bands",
    "read_bands_header",
    "read_picture",
    "read_record_bands",
    "require_bands",
    "scale_for_display",
]

Bands = npt.NDArray[np.float32]

_SHOWN_RANGE = (1, 99)  # percentiles that are black and white in a picture


def read_bands(path: str | os.PathLike[str], channels: int) -> Bands:
    """Read an image as (H, W, `channels`) float32, in the units and the order of the file.

    Args:
        path: the image file.
        channels: the number of channels that it must have. 0: any number. Then the channels of an
            array with three axes are the shorter of the first and the last axis.

    Raises:
        UserError: the file is missing, cannot be read, has another number of channels, or has
            values that are not finite; or tifffile is needed and missing.
    """
    with name_unreadable(path):
        stored = require_bands(_read_array(path), channels, os.fspath(path))
        return np.ascontiguousarray(_turn_upright(stored, _read_orientation(path)))


def require_bands(array: npt.NDArray[Any], channels: int, name: str) -> Bands:
    """Return an array as (H, W, `channels`) float32, see `read_bands`; `name` is for messages."""
    if array.dtype.kind not in "buif":
        raise UserError(f"{name}: expected real numbers, got {array.dtype}")
    axis = _find_channel_axis(array.shape, channels, name)
    image = array[:, :, None] if axis is None else np.moveaxis(array, axis, 2)
    bands: Bands = np.ascontiguousarray(image, dtype=np.float32)
    if not np.isfinite(bands).all():
        raise UserError(
            f"{name}: has values that are not finite (NaN, infinite, or beyond float32). Replace "
            "them, for example missing pixels by the mean of their channel"
        )
    return bands


def read_bands_header(path: str | os.PathLike[str], channels: int) -> ImageHeader:
    """Return the size of an image for `read_bands`, without its pixels where the format allows.

    Raises:
        UserError: see `read_bands`; the values are not checked.
    """
    with name_unreadable(path):
        shape = _read_shape(path)
        axis = _find_channel_axis(shape, channels, os.fspath(path))
        rotated = _read_orientation(path) >= 5
    height, width = (side for i, side in enumerate(shape) if i != axis)
    if rotated:
        width, height = height, width
    return ImageHeader(width, height, rotated=rotated, frames=1)


def read_record_bands(record: Mapping[str, Any], channels: int) -> Bands:
    """Read the image of a detectron2 record, see `read_bands`.

    Raises:
        UserError: see `read_bands`; or the image has another size than the record says.
    """
    image = read_bands(record["file_name"], channels)
    require_size(image, record)
    return image


def order_bands(image: Bands, image_format: str) -> Bands:
    """Return the channels in the order of the model; three channels are R, G, B in the file.

    Args:
        image: (H, W, C).
        image_format: `INPUT.FORMAT`. "BGR" reverses the order of three channels, as for 8-bit
            images, because weights for colour images expect it. Any other number of channels stays
            as it is.
    """
    return image[:, :, ::-1] if image_format == "BGR" and image.shape[2] == 3 else image


def scale_for_display(image: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Return the first three channels as a picture, (H, W, 3) uint8.

    If there are fewer than three, the first is shown in grey.

    Each channel is scaled: its 1st percentile becomes black, and its 99th percentile white.

    Args:
        image: (H, W, C), any numbers.
    """
    shown = image[:, :, :3] if image.shape[2] >= 3 else image[:, :, :1]
    low, high = np.percentile(shown, _SHOWN_RANGE, axis=(0, 1))
    scaled = (shown - low) / np.where(high > low, high - low, 1) * 255
    pixels = scaled.clip(0, 255).round().astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))


def read_picture(record: Mapping[str, Any]) -> npt.NDArray[np.uint8]:
    """Return the image of a record as a picture for people, (H, W, 3) uint8 RGB.

    `data.images` refuses images with other channels or more than 8 bits. These are scaled, see
    `scale_for_display`.

    Raises:
        UserError: the image cannot be read, or has another size than the record says.
    """
    try:
        return np.ascontiguousarray(read_record(record)[:, :, ::-1])
    except UserError as error:
        try:
            bands = read_record_bands(record, 0)
        except UserError:
            raise error from None
    return scale_for_display(bands)


def _find_channel_axis(shape: tuple[int, ...], channels: int, name: str) -> int | None:
    """Return the axis of the channels, 2 or 0; None for an array (H, W)."""
    if 0 not in shape:
        if len(shape) == 2 and channels in (0, 1):
            return None
        if len(shape) == 3 and channels == 0:
            return 2 if shape[2] <= shape[0] else 0
        if len(shape) == 3 and channels in (shape[2], shape[0]):
            return 2 if shape[2] == channels else 0
    expected = channels or "C"
    raise UserError(
        f"{name}: expected an image of {channels or 'some'} channel(s), (H, W, {expected}) or "
        f"({expected}, H, W), got an array of shape {tuple(shape)}. "
        "MASK_RCNN_EXT.DATA.IMAGE_CHANNELS is the number of channels"
    )


def _get_kind(path: str | os.PathLike[str]) -> str:
    return os.path.splitext(os.fspath(path))[1].lower()


def _read_orientation(path: str | os.PathLike[str]) -> int:
    """Return the EXIF orientation, 1 to 8, of the result of `_read_array`; 1 is upright."""
    kind, found = _get_kind(path), 1
    if kind in (".tif", ".tiff"):
        with _import_tifffile(path).TiffFile(os.fspath(path)) as file:
            found = file.pages[0].tags.valueof(EXIF_ORIENTATION, 1)
    elif kind == ".png" and _is_16_bit_colour(path):
        with Image.open(path) as image:
            found = image.getexif().get(EXIF_ORIENTATION, 1)
    return int(found) if found in range(1, 9) else 1


def _turn_upright(image: Bands, orientation: int) -> Bands:
    """Return an image, (H, W, C), upright; `orientation` is its EXIF orientation, 1 to 8."""
    if orientation in (3, 4, 6, 7):
        image = image[::-1]
    if orientation in (2, 3, 7, 8):
        image = image[:, ::-1]
    return image.swapaxes(0, 1) if orientation >= 5 else image


def _is_16_bit_colour(path: str | os.PathLike[str]) -> bool:
    """Return whether the header of a PNG says that it has 16 bits, and is not grey."""
    with open(path, "rb") as file:
        header = file.read(26)
    return header[:4] == b"\x89PNG" and header[24:25] == b"\x10" and header[25:] != b"\x00"


def _read_array(path: str | os.PathLike[str]) -> npt.NDArray[Any]:
    kind = _get_kind(path)
    if kind in (".npy", ".tif", ".tiff"):
        require_pixels(-(-math.prod(_read_shape(path)) // 3), os.fspath(path))
    if kind == ".npy":
        return np.asarray(np.load(path, allow_pickle=False))
    if kind in (".tif", ".tiff"):
        return np.asarray(_import_tifffile(path).imread(os.fspath(path)))
    if kind == ".png" and _is_16_bit_colour(path):  # Pillow cuts it to 8 bits
        with open_image(path):  # OpenCV does not check Pillow's limit
            pass
        pixels = cv2.imdecode(np.fromfile(path, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
        if pixels is not None:
            return np.asarray(pixels[:, :, [2, 1, 0, 3][: pixels.shape[2]]])
    with open_image(path) as (_, image):
        upright = ImageOps.exif_transpose(image)
        return np.asarray(upright.convert("RGB") if upright.mode == "P" else upright)


def _read_shape(path: str | os.PathLike[str]) -> tuple[int, ...]:
    kind = _get_kind(path)
    if kind == ".npy":
        return np.load(path, mmap_mode="r", allow_pickle=False).shape
    if kind in (".tif", ".tiff"):
        with _import_tifffile(path).TiffFile(os.fspath(path)) as file:
            _require_end(file)
            return tuple(file.series[0].shape)
    return _read_array(path).shape


def _require_end(file: Any) -> None:
    """Refuse a TIFF without pages, or whose pages form a circle: tifffile would never end."""
    try:
        first = file.pages.first
    except IndexError as error:
        raise ValueError("it is cut short: there is no page") from error
    tiff, handle, offset = file.tiff, file.filehandle, first.offset
    seen: set[int] = set()
    while offset and offset < handle.size:
        if offset in seen:
            raise ValueError("its pages lead in a circle")
        seen.add(offset)
        handle.seek(offset)
        tags = handle.read(tiff.tagnosize)
        number = struct.unpack(tiff.tagnoformat, tags)[0] if len(tags) == tiff.tagnosize else 0
        handle.seek(offset + tiff.tagnosize + number * tiff.tagsize)
        following = handle.read(tiff.offsetsize)
        whole = len(following) == tiff.offsetsize
        offset = struct.unpack(tiff.offsetformat, following)[0] if whole else 0


def _import_tifffile(path: str | os.PathLike[str]) -> Any:
    try:
        import tifffile
    except ImportError as error:
        raise UserError(
            f"{os.fspath(path)}: reading TIFF with MASK_RCNN_EXT.DATA.IMAGE_CHANNELS needs the "
            'package tifffile: pip install "mask_rcnn_ext[tiff]", or pip install tifffile'
        ) from error
    return tifffile
